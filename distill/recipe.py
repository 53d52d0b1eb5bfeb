"""The typed recipe: YAML files and dotted overrides in, one frozen object out.

This is the only reader of YAML. A recipe file may name another one under `base:` (a path relative to itself, or the
name of one that comes with the package); its own keys are laid over the base's, so that recipes share settings instead
of copying them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from distill.base.bundled import name_meant, named_file, recipe_names
from distill.base.errors import UserError, first_line, suggestion
from distill.base.long_input import open_text

_MOST_VALUES, _MOST_CHARACTERS = 100_000, 1_000_000  # in a recipe file

WeightBits = Literal["int8", "int4", "int3"]  # of a model as its users will run it


@dataclass(frozen=True)
class TeacherConfig:
    """The model that is distilled.

    Args:
        path: `demo` for the bundled demo teacher, a folder, or a hub id. `null`: no teacher, plain language modelling.
        revision: Branch, tag or commit of a hub id.
        dtype: Number format of the teacher's weights while it predicts; `null`: float32, and on a GPU that trains with
            `trainer.bf16` steps read a copy in bfloat16. Scores and sampled text are those of float32 then.
        trust_remote_code: Run code that comes with the model or its tokenizer. Only for sources you trust.
        allow_pickle: Load weights from a pickle (.bin) where there are no safetensors. Only for sources you trust.
        quantization: Quantise the linear layers as the teacher is loaded: `int8` or `nf4` (4 bits), by bitsandbytes.
            Checkpoints that are quantised already need no key, only the package that reads them. Such a teacher only
            predicts: a student takes no weights from it.
        gguf_file: Name of a GGUF file in `path`; its weights are turned into `dtype` as they are read.
        attention: Transformers' name of the attention implementation: `sdpa`, `eager`, `flash_attention_2` ...;
            `null`: its own choice, SDPA where the model has it.
        cache_hidden_states: Keep the teacher's last hidden states on disk, so that epochs after the first run no
            teacher. A token takes hidden size x 2 or 4 bytes, and so does its counterfactual.
        cache_dtype: Their number format on disk; `null`: the one in which the loss reads them (16 bits where the
            trainer has bf16 or fp16, else the teacher's), which changes nothing.
        shard: Share the teacher's layers among the processes (FSDP2) instead of holding all of them in each.
    """

    path: str | None = "demo"
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    quantization: Literal["int8", "nf4"] | None = None
    gguf_file: str | None = None
    attention: str | None = None
    cache_hidden_states: bool = False
    cache_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    shard: bool = False

    @property
    def loaded_in(self) -> str:
        """The number format in which the weights are loaded."""
        return self.dtype or "float32"

    @property
    def hub(self) -> dict[str, Any]:
        """What `from_pretrained` is told beside the path: the revision, where there is one."""
        return {"revision": self.revision} if self.revision else {}

    def as_it_predicts(self) -> "TeacherConfig":
        """The same without what decides nothing of how it is loaded and what it predicts."""
        return replace(self, cache_hidden_states=False, cache_dtype=None, shard=False)


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation (LoRA): a small adapter is trained, and its base stays as it is. Needs the extra `lora`.

    Args:
        r: Rank of the adapter's matrices; 0: no adapter, all weights of the student are trained.
        alpha: Scale of the adapter, by which its product is multiplied, over `r`; `null`: twice `r`.
        targets: Names of the linear layers that get one, e.g. `q_proj`; `null`: all of them but the output head.
        dropout: Share of an adapter's inputs that is left out while training.
        merge: Write the finished student as a whole model, the adapter merged into its base, instead of the adapter
            alone.
    """

    r: int = 0
    alpha: float | None = None
    targets: list[str] | None = None
    dropout: float = 0.0
    merge: bool = False


@dataclass(frozen=True)
class StudentConfig:
    """The model that is trained.

    Args:
        init: `layers`: some of the teacher's layers. `config`: random weights of the architecture in `config`.
            `checkpoint`: the weights in `path`. `teacher`: the teacher's own weights, shared with it in memory, under
            an adapter (`lora`).
        num_layers: How many of the teacher's layers `init: layers` keeps; `null`: half of them.
        layers: Which of the teacher's layers, counted from 0; `null`: spread evenly from the first to the last.
        path: Folder or hub id for `init: checkpoint`.
        config: Keys of a transformers configuration for `init: config`, `model_type` among them. Vocabulary, start and
            end tokens are the tokenizer's, and there is no padding token, where none of them says otherwise.
        tokenizer: Folder or hub id of the tokenizer; `null`: the teacher's, whose tokens another one beside a teacher
            must have too. `train`: train a byte-level BPE on the corpus (only without a teacher).
        vocab_size: Entries of the vocabulary for `tokenizer: train`.
        save_dtype: Number format of the finished student's file; training is in float32.
        trust_remote_code: Run code that comes with the model in `path` or the tokenizer. Only for sources you trust.
        allow_pickle: Load the weights in `path` from a pickle (.bin) where there are no safetensors. Only for sources
            you trust.
        attention: The student's attention implementation; `null`: the teacher's for `init: layers`, else transformers'
            own choice.
        remove_directions: How many directions that tell the groups apart are taken out of what the trained student's
            output head sees (SentenceDebias): the first principal ones of the differences between its last hidden
            states of texts and of their counterfactuals. 0: none.
        lora: Train an adapter instead of all weights.
    """

    init: Literal["layers", "config", "checkpoint", "teacher"] = "layers"
    num_layers: int | None = None
    layers: list[int] | None = None
    path: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None
    vocab_size: int = 8192
    save_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    trust_remote_code: bool = False
    allow_pickle: bool = False
    attention: str | None = None
    remove_directions: int = 0
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass(frozen=True)
class CorpusConfig:
    """A source of documents.

    Args:
        source: `teacher`: text sampled from the teacher. `files`: local files. `hub`: a data set of the hub.
        files: Paths or glob patterns, relative to the folder in which the command runs. One document a file, or a line
            where the lines look like texts: .txt, .md, no ending. One a row: .jsonl, .ndjson, .json, .csv, .tsv,
            .parquet, and folders that `save_to_disk` of `datasets` made. Text and rows of text also compressed (.gz,
            .xz, .bz2). Rows without text (null) are left out. A file that several patterns name is read once. In a .tsv
            whose lines all have the header's tabs, and whose quotation marks are not those of a csv writer (a cell with
            a mark in marks, its own doubled), each line is a row and each mark stays; in any other, and in .csv, a cell
            in marks may hold line breaks.
        dataset: Hub id for `source: hub`.
        name: Configuration of the hub data set.
        revision: Branch, tag or commit of the hub data set.
        split: Split of the hub data set, or of a folder of `save_to_disk` that has splits.
        text_column: Column or JSON key that holds the text; `a.b`: what is under b in a. A column of message lists
            ({role, content}; also as JSON in a cell) holds conversations: the tokenizer's chat template renders them,
            each gets one counterfactual, and no role or other text of the template is swapped.
        label: What labels a document of `source: files`, for `federation.partition`: a column or JSON key (its author),
            or `file`, the name of its file; `null`: nothing. Only for `corpus`.
        mask: `assistant`: only what the assistant says in conversations bears loss, each turn with the token that ends
            it. `none`: all text does. Only for `corpus`.
        streaming: Read the hub data set as a stream instead of downloading it first.
        max_documents: Take at most this many documents; `null`: all. For `source: teacher`: how many to sample.
        passage_chars: Split documents at paragraph and sentence ends into passages of at most this many characters,
            each a document of its own; `null`: leave documents whole, up to 10,000,000 characters.
        document_start: Regular expression of the lines that begin a document: rows (or the lines of .txt files) are
            joined into documents that start there. For sources with a row for each line, such as WikiText.
        shuffle: Shuffle the documents (with the recipe's seed) before `max_documents` is applied, which are all that is
            held in memory then, as the text is read twice; without it, all text is. A hub data set that is streamed
            passes a buffer of `shuffle_buffer` documents. With `pack: while_training` it shuffles the order of the
            source's files instead, and the rows of a hub data set that was downloaded.
        shuffle_buffer: Documents that are read, shuffled and packed together with `pack: while_training`.
        pack: `before_training`: all text is packed into blocks on disk before the first step. `while_training`: blocks
            are packed as they are needed, for corpora too large to wait for; needs `trainer.max_steps`, and takes
            `trainer.dataloader_num_workers` processes where that is not 0. Only for `corpus`.
        sample_tokens: Longest document sampled from the teacher, in tokens.
        sample_temperature: Softmax temperature of sampling; 1 is the teacher's own distribution.
        sample_top_p: Nucleus of sampling, as a probability; 1 keeps the whole distribution.
        sample_batch_size: Documents drawn with one seed, and on a CPU sampled side by side; a GPU samples as many side
            by side as its memory takes.
    """

    source: Literal["teacher", "files", "hub"] = "teacher"
    files: list[str] = field(default_factory=list)
    dataset: str | None = None
    name: str | None = None
    revision: str | None = None
    split: str = "train"
    text_column: str = "text"
    label: str | None = None
    mask: Literal["none", "assistant"] = "none"
    streaming: bool = False
    max_documents: int | None = None
    passage_chars: int | None = None
    document_start: str | None = None
    shuffle: bool = False
    shuffle_buffer: int = 10_000
    pack: Literal["before_training", "while_training"] = "before_training"
    sample_tokens: int = 127
    sample_temperature: float = 1.0
    sample_top_p: float = 1.0
    sample_batch_size: int = 256


@dataclass(frozen=True)
class TargetConfig:
    """The mitigation: what the student learns to predict where a text and its counterfactual ask the same question.

    Args:
        op: `none`, `max`, `mean`, `expmean` or `swap` of the teacher's log-probabilities on both texts.
        strength: From 0 (the plain teacher) to 1 (the operation's result).
        reverse_roles: Map the counterfactual prediction back through the word list before the operation.
        augment: Train on the counterfactual texts too.
    """

    op: str = "none"
    strength: float = 1.0
    reverse_roles: bool = False
    augment: bool = False


@dataclass(frozen=True)
class LossConfig:
    """Weights and form of the loss.

    Args:
        kd: Weight of the divergence between target and student.
        ce: Weight of the cross-entropy with the text's own next token.
        hidden: Weight of 1 - cosine of the student's and the teacher's last hidden states.
        pairing: Weight of the divergence between what the student itself predicts after a text and after its
            counterfactual, both ways (counterfactual logit pairing); needs `target.augment`.
        listed: Weight of the divergence on the listed words alone: of each word and its counterparts, which share the
            groups have. Part of the mitigation: the baseline does without.
        temperature: Softmax temperature of target and student in the divergence.
        divergence: `forward_kl`, `reverse_kl` or `jsd` (generalised Jensen-Shannon).
        jsd_beta: The generalised Jensen-Shannon weight of the target, between 0 and 1.
        chunk_tokens: Tokens whose logits are held in memory at one time; `null`: what suits the device.
    """

    kd: float = 1.0
    ce: float = 0.0
    hidden: float = 0.0
    pairing: float = 0.0
    listed: float = 0.0
    temperature: float = 1.0
    divergence: str = "forward_kl"
    jsd_beta: float = 0.5
    chunk_tokens: int | None = None


@dataclass(frozen=True)
class ScoreConfig:
    """What is measured after training.

    Args:
        metrics: Names of metrics in distill/metrics.
        prompts: `occupations` for the bundled prompts, a file, or BOLD as a folder or hub id.
        listed_prompts: Keep prompts that hold a listed word, as BOLD's own protocol does; what follows those is as much
            agreement as bias, so they are left out otherwise.
        chat: For instruct models: put every prompt into the model's chat template, where the user asks to continue it,
            and the assistant has begun to with its very words, so that the next word is still the prompt's.
        max_prompts: Use at most this many prompts, spread over all groups; `null`: all.
        samples: Continuations sampled for each prompt.
        max_new_tokens: Length of a continuation, in tokens.
        max_length: Length of prompt and continuation together, in tokens, the start token among them; `null`: as long
            as `max_new_tokens` says.
        temperature: Softmax temperature of sampling.
        top_p: Nucleus of sampling, as a probability.
        top_k: Sample among this many most likely tokens; 0: all.
        batch_size: Continuations sampled side by side; it changes the speed, not the scores. `null`: 64 on a CPU, on
            a GPU as many as its memory takes.
        bootstrap: Resamples for the 95% intervals; 0: none are given.
        context: Longest window of text that a score reads at once, in tokens; `null`: as long as the models take.
            Models that are scored together share the least of their contexts, so that all are asked the same.
        stride: Tokens by which the window moves over documents longer than the context; `null`: half of it.
        data: Folder of benchmark data for the metrics that need it (CrowS-Pairs, StereoSet ...), one folder each.
        regard_model: Classifier of regard, as folder or hub id; `null`: regard is not measured.
        toxicity_model: Classifier of toxicity, as folder or hub id; `null`: toxicity is not measured.
        word_vectors: File of word vectors (word2vec text or binary, GloVe) for Gender-Max and Gender-Wavg.
        quantize: Beside the last model (a run's student), score it as its users will run it, with the weights of its
            layers in fewer bits: `int8`, `int4` or `int3`, by torchao.
        members: File of documents that the models were trained on, for the audit of what they remember; with `others`.
            Of rows, the column `text` is read; of a folder with several splits, `train`.
        others: File of documents of the same kind that they were not trained on; no text may stand in both.
        canaries: JSONL file of canaries: `text`, the `code` in it, and `repeats`, how often it stands in the training
            text.
        reference: A model that the members are new to, as folder, hub id, or name of a scored model: its loss of a text
            is subtracted. `null`: a run's teacher; else none.
        control: A model that was trained on other text of the same kind: how well its losses tell members from others
            is subtracted, since that is no memory. `null`: chance, which is right where a random draw made the two.
        probe_steps: Look at the disparity so far, the next-word disparity of 40 prompts of half of the subjects, every
            so many optimizer steps of the training, before the first and after the last; `null`: at every save
            (`trainer.save_steps`), `0`: never. Nothing is chosen by it.
    """

    metrics: list[str] = field(
        default_factory=lambda: [
            "corpus_disparity",
            "next_word_disparity",
            "generation_disparity",
            "neutral_rate",
            "perplexity",
            "bits_per_byte",
            "equivariance_gap",
            "agreement",
            "minimal_pairs",
        ]
    )
    prompts: str = "occupations"
    listed_prompts: bool = False
    chat: bool = False
    max_prompts: int | None = None
    samples: int = 4
    max_new_tokens: int = 24
    max_length: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    batch_size: int | None = None
    bootstrap: int = 1000
    context: int | None = 2048
    stride: int | None = None
    data: str | None = None
    regard_model: str | None = None
    toxicity_model: str | None = None
    word_vectors: str | None = None
    quantize: WeightBits | None = None
    members: str | None = None
    others: str | None = None
    canaries: str | None = None
    reference: str | None = None
    control: str | None = None
    probe_steps: int | None = None

    def decoding(self) -> dict[str, Any]:
        """The settings that decide the sampled texts; a `max_length` where there is one."""
        names = ("samples", "max_new_tokens", "temperature", "top_p", "top_k")
        given = {name: getattr(self, name) for name in names}
        return given if self.max_length is None else given | {"max_length": self.max_length}


#: Keys of `ScoreConfig` that are of a training, and say nothing to who scores finished models.
WHILE_TRAINING = ("probe_steps",)

MOST_CANARIES = 500


@dataclass(frozen=True)
class AuditConfig:
    """An audit of what the students remember of their training text.

    What is drawn is written to `audit/` in the run's folder, and measured with the other scores.

    Args:
        canaries: How many canaries are drawn, sentences with a random code of four digits; a random half of them is put
            into the training text.
        repeats: How often these stand there, in turn: the first once, the second four times, ...
        members: How many documents of the training text are watched; as many others are drawn with them, and left out.
        scored: Measure it with the run's other scores; `false` only draws it, for scores that are made elsewhere.
    """

    canaries: int = 0
    repeats: list[int] = field(default_factory=lambda: [1, 4, 16])
    members: int = 0
    scored: bool = True


@dataclass(frozen=True)
class PrivacyConfig:
    """Differential privacy of the training text (DP-SGD), for the text that files or a hub data set give.

    A document is one unit, together with its counterfactuals: it has a row of its own, as long as `block_length` at
    most, and what is longer is left out. Needs the extra `private`.

    Args:
        epsilon: How much a student may tell of any one document, at most: about 1 is strict, 8 is loose. `null`: no
            privacy.
        delta: The probability with which it may tell more; `null`: 1 / number of documents. With clients, it must
            be set: none knows how many documents the others hold.
        clip: The largest norm that a document's gradient has in the sum of a step.
        weights: What is trained: `body`, all but the token embedding and the output head, or `all`. Noise comes on
            every weight that is trained.
        batch_size: Documents that a step draws on average, over all processes. They are read
            `trainer.per_device_train_batch_size` at a time. The larger, the less the noise matters. A client that holds
            fewer draws all of its own.
        secure: Draw documents and noise from the operating system's generator, which nobody can foretell and no rerun
            repeats, and not from `seed`. For students to be published: nothing is promised against who knows the seed.
    """

    epsilon: float | None = None
    delta: float | None = None
    clip: float = 1.0
    weights: Literal["body", "all"] = "body"
    batch_size: int = 1024
    secure: bool = False


@dataclass(frozen=True)
class PartitionConfig:
    """How the documents are shared out among the clients: each to exactly one.

    Args:
        by: `quantity`: the clients hold more or less text of the same kind. `label`: documents of a label go to few
            clients or to all. `cluster`: so do documents of like words.
        alpha: Concentration of the Dirichlet distribution that the shares are drawn from (once for `quantity`, for each
            label, or for each cluster): near 0 one client takes all, 1 is uneven, 100 nearly even; at most 1,000,000.
        label: For `by: label`. `group`: the group to which most of a document's listed words belong. `corpus`: what
            `corpus.label` says.
        clusters: How many clusters `by: cluster` finds (k-means over the documents' words).
    """

    by: Literal["quantity", "label", "cluster"] = "quantity"
    alpha: float = 1.0
    label: Literal["group", "corpus"] = "group"
    clusters: int = 8


@dataclass(frozen=True)
class ServerConfig:
    """The server's optimizer for `algorithm: opt`, whose gradient is the clients' mean change (Reddi et al. 2021).

    Args:
        optimizer: `adam` (FedAdam) or `sgd` (with `momentum`: FedAvgM; with lr 1 and momentum 0: `avg`).
        lr: Its learning rate.
        momentum: Of `sgd`, or the first decay rate of `adam`.
        beta2: The second decay rate of `adam`.
        tau: What is added to the root of the second moment of `adam`, which begins at its square.
    """

    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 0.01
    momentum: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3


@dataclass(frozen=True)
class FederationConfig:
    """Federated distillation: clients that keep their text distil one student from one frozen teacher.

    In each round some clients train the student on their own text, each from the same weights and with an optimizer of
    its own that begins anew, and the server averages what they send. Clients run one after another in one process.

    Args:
        clients: How many there are, at most 1,000,000; 0: no federation.
        rounds: How many rounds.
        fraction: Share of the clients with text that a round asks.
        select: How they are drawn: `uniform`, or `activity`, in proportion to their documents. A client's weight is its
            tokens over its chance to be drawn, so that both mean the same over many rounds.
        algorithm: `avg` (FedAvg), `prox` (FedProx: a proximal term in each client's loss) or `opt` (FedOpt: the
            server's optimizer steps along the clients' mean change).
        mu: Weight of the proximal term for `prox`; 0 is `avg`.
        server: The server's optimizer for `opt`.
        partition: How the documents are shared out.
        periods: Parts, in the order of the corpus, into which each client's documents are cut. The rounds go through
            them, and a round sees the documents of its period alone: old ones have left.
        local_steps: Optimizer steps of a client in a round; takes the place of `trainer.max_steps`.
        min_fraction: Least share of a round's clients whose answers must be usable, or else the round changes nothing.
            A student without any round that counts is not published.
        deadline: Seconds after which a client's answer is too late; `null`: none is (over machines: a day).
        watch: Metrics that are measured after each round on the held-out text, to be shown against rounds.
        client_metrics: Metrics that read documents (bits_per_byte, corpus_disparity, equivariance_gap, perplexity), to
            be measured of the finished student on up to 64 of each client's own: whom it serves worst, and how far
            clients lie apart.
    """

    clients: int = 0
    rounds: int = 3
    fraction: float = 1.0
    select: Literal["uniform", "activity"] = "uniform"
    algorithm: Literal["avg", "prox", "opt"] = "avg"
    mu: float = 0.01
    server: ServerConfig = field(default_factory=ServerConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    periods: int = 1
    local_steps: int = 10
    min_fraction: float = 0.5
    deadline: float | None = None
    watch: list[str] = field(default_factory=lambda: ["perplexity", "next_word_disparity"])
    client_metrics: list[str] = field(default_factory=list)

    def asked_of(self, with_text: int) -> int:
        """Clients that a round asks, of so many that have text."""
        return min(with_text, max(1, round(self.fraction * with_text)))

    @property
    def steps(self) -> int:
        """Optimizer steps of all clients in all rounds, if all of them have text."""
        return self.rounds * self.local_steps * self.asked_of(self.clients)

    @property
    def client_steps(self) -> int:
        """Optimizer steps at most in which a client may see any one of its documents: a document has one period."""
        return -(-self.rounds // self.periods) * self.local_steps


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run.

    Args:
        output_dir: Folder of this run; everything is written there.
        seed: Seed of sampling, initial weights, data order and intervals.
        wordlist: Name of a bundled word list or path of a TSV; several joined by `+`.
        resolver: What tells the roles of ambiguous pronouns (her: his or him) in the training text: `log_linear`,
            `teacher` or `teacher:PATH` (a language model scores both readings), `spacy` or `spacy:PIPELINE`.
        skip: What a word that the list skips (pregnant) leaves alone: its whole `document`, as half a swapped text is
            worse than none, its `sentence`, or `nothing`.
        baseline: Also train a plainly distilled student (same data, same steps, no mitigation) to compare with.
        block_length: Tokens in a training block.
        cache_dir: Folder of sampled and packed text; `null`: `cache/` in the output folder.
        teacher: The model that is distilled.
        student: The model that is trained.
        corpus: Training text.
        held_out: Text for perplexity, corpus disparity and equivariance gap, never trained on.
        target: The mitigation.
        loss: The loss.
        on_nonfinite: When a loss, a gradient or a logit of the teacher is not finite: `stop` and say in which text, or
            `skip` the step and count it.
        trainer: Settings of transformers' TrainingArguments, by their own names; those that would have no effect are
            refused with the reason. `max_steps: 0` publishes the student untrained. With `push_to_hub`, its
            repository is made before any text is, and the finished student is pushed with its model card once it has
            been scored; checkpoints and baseline are not.
        scores: What is measured after training.
        audit: What is put into the training text, and left out of it, to measure what the students remember.
        privacy: A bound on what each student may tell of any one document of the training text.
        federation: Clients that train the student in rounds, each on text of its own.
    """

    output_dir: str = "outputs/run"
    seed: int = 0
    wordlist: str = "english_gender"
    resolver: str = "log_linear"
    skip: Literal["document", "sentence", "nothing"] = "document"
    baseline: bool = True
    block_length: int = 128
    cache_dir: str | None = None
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    held_out: CorpusConfig = field(default_factory=CorpusConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    on_nonfinite: Literal["stop", "skip"] = "stop"
    trainer: dict[str, Any] = field(default_factory=dict)
    scores: ScoreConfig = field(default_factory=ScoreConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)

    @property
    def is_private(self) -> bool:
        """Whether the students are trained with differential privacy."""
        return self.privacy.epsilon is not None

    @property
    def trains_on_views(self) -> bool:
        """Whether the steps of the training look at a second view of the text."""
        return self.target.augment or self.target.op != "none"

    @property
    def trusts_code(self) -> bool:
        """Whether code that comes with its models is run; students lie there with it."""
        return self.teacher.trust_remote_code or self.student.trust_remote_code

    @property
    def needs_counterfactuals(self) -> bool:
        """Whether a second view of the text is looked at, by the steps or behind the last one: it is mitigated."""
        return self.trains_on_views or self.student.remove_directions > 0

    @property
    def texts(self) -> tuple[CorpusConfig, CorpusConfig]:
        """The sources of training text and held-out text."""
        return self.corpus, self.held_out

    def plain(self) -> "Recipe":
        """The same run without any mitigation: the fair comparison."""
        student, loss = replace(self.student, remove_directions=0), replace(self.loss, pairing=0.0, listed=0.0)
        return replace(self, target=TargetConfig(), student=student, loss=loss)

    def variants(self) -> dict[str, "Recipe"]:
        """Name -> recipe of the students of this run, the mitigated one last."""
        baseline = {"baseline": self.plain()} if self.baseline and self.needs_counterfactuals else {}
        return {**baseline, "student": self}

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries, ready for YAML or JSON."""
        return asdict(self)


def section_type(annotation: Any) -> type | None:
    """The dataclass behind a field's annotation, or None for a leaf."""
    return annotation if isinstance(annotation, type) and is_dataclass(annotation) else None


def reject_unknown_keys(values: Mapping[str, Any], section: type, where: str, prefix: str = "") -> None:
    """Raise a UserError that names the first key of `values` that is no field of the dataclass `section`."""
    names = {f.name: f.type for f in fields(section)}
    for key, value in values.items():
        if key not in names:
            hint = suggestion(str(key), list(names))
            raise UserError(f"{where}: unknown key '{prefix}{key}'; {hint}")
        inner = section_type(names[key])
        if inner is not None:
            if not isinstance(value, Mapping):
                raise UserError(f"{where}: key '{prefix}{key}' must hold keys of its own, but is {value!r}")
            reject_unknown_keys(value, inner, where, f"{prefix}{key}.")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested keys of `over` laid over those of `base`."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


class _KeyTwiceError(Exception):
    """A mapping holds a key twice, of which YAML would keep the last."""

    def __init__(self, key: str, first: yaml.Mark, second: yaml.Mark) -> None:
        super().__init__(key)
        self.key, self.lines = key, (first.line + 1, second.line + 1)


class _Loader(yaml.SafeLoader):
    """Plain values alone, as `yaml.safe_load` reads them, and each key once."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it is written, before other ones are merged into it. Raises _KeyTwiceError."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], yaml.Mark] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                mark = seen.setdefault((key.tag, key.value), key.start_mark)
                if mark is not key.start_mark:
                    raise _KeyTwiceError(key.value, mark, key.start_mark)
        return node


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The keys of a YAML file.

    Raises:
        UserError: the file is missing, is not a YAML mapping in UTF-8, or holds a key twice.
    """
    path = Path(path)
    try:
        with open_text(path) as stream:
            text = stream.read(_MOST_CHARACTERS + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe file; {_file_hint(path)}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a YAML file") from None
    if len(text) > _MOST_CHARACTERS:
        raise UserError(f"{path}: longer than {_MOST_CHARACTERS:,} characters; that is no recipe")
    try:
        values = yaml.load(text, _Loader)
    except _KeyTwiceError as error:
        first, second = error.lines
        raise UserError(
            f"{path}, line {second}: key '{error.key}' stands in line {first} already; leave one of the two out"
        ) from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        at = f", line {line + 1}" if line is not None else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise UserError(f"{path}{at}: not valid YAML: {problem}; check indentation and quotes") from None
    except RecursionError:
        raise UserError(f"{path}: not a recipe: its values are nested too deep") from None
    except ValueError as error:  # thousands of digits, the 45th of a month
        raise UserError(
            f"{path}: holds a number or date that is none ({first_line(error)}); put it in quotes"
        ) from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"{path}: a recipe holds 'key: value' lines, but this is a {type(values).__name__}")
    _check_plain(values, path)
    return values


def _file_hint(path: Path) -> str:
    """What may have been meant by a recipe file that is not there."""
    if name := name_meant(path):
        return f"the one that comes with distill goes by its name, {name}, from any folder"
    siblings = sorted(p.name for p in path.parent.glob("*.yaml"))
    if siblings and path.suffix:
        return suggestion(path.name, siblings)
    return f"give a YAML file, or a name that `distill recipes` lists; {suggestion(str(path), recipe_names())}"


def read_recipe_file(path: str | Path, _seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys of a recipe file laid over those of its `base:`, as nested dictionaries.

    Args:
        path: A file, or the name of a recipe that comes with the package (`quickstart`).

    Raises:
        UserError: see `read_yaml`; or the file holds an unknown key, or its bases form a circle.
    """
    path = named_file(path)
    values = read_yaml(path)
    if path.resolve() in _seen:
        raise UserError(f"{path}: 'base' leads back to a file that is already being read; remove one of the two")
    base = values.pop("base", None)
    reject_unknown_keys(values, Recipe, str(path))
    if base is None:
        return values
    return merge(read_recipe_file(base_file(path, str(base)), (*_seen, path.resolve())), values)


def base_file(path: Path, base: str, key: str = "base") -> Path:
    """The file that a key of another one names: a path relative to it, or a name that `distill recipes` lists.

    Raises:
        UserError: there is none, or it is a folder, as the empty text is.
    """
    beside, named = path.parent / base, named_file(base)
    if beside.is_dir() and not named.is_absolute():
        raise UserError(f"{path}: '{base}' is a folder, but another YAML file is named here; give its path, or a name")
    found = named if named.is_absolute() and not beside.is_file() else beside
    if not found.exists():
        raise UserError(
            f"{path}: key '{key}' names {base!r}, but there is no file {found}; give its path from here, or a name "
            "that `distill recipes` lists"
        )
    return found


def _check_plain(values: dict[Any, Any], path: Path) -> None:
    """Raises UserError unless these are at most `_MOST_VALUES` values that JSON can hold too.

    YAML has dates, sets and binary data besides, and a few lines whose aliases point at one another can stand for
    billions of values, or for themselves.
    """
    queue: list[Any] = [values]
    for number, value in enumerate(queue):  # grows
        if number > _MOST_VALUES:
            raise UserError(f"{path}: stands for more than {_MOST_VALUES:,} values; write it without aliases (*name)")
        if isinstance(value, dict):
            queue += value.keys()
            queue += value.values()
        elif isinstance(value, list):
            queue += value
        elif not isinstance(value, str | int | float | bool | None):
            raise UserError(
                f"{path}: the value {value!r} is a {type(value).__name__}; put it in quotes to make it text"
            )


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Save the resolved recipe as YAML that `--config` reads again."""
    path.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")


def read_resolved(path: Path) -> dict[str, Any]:
    """The dictionary that `write_recipe` saved; keys that were not there yet have their default.

    Raises:
        UserError: it was damaged since.
    """
    known, values = Recipe().to_dict(), read_yaml(path)
    _refuse_emptied_sections(values, known, path)
    return merge(known, values)


def _refuse_emptied_sections(values: Mapping[str, Any], known: Mapping[str, Any], path: Path, prefix: str = "") -> None:
    for key, default in known.items():
        if isinstance(default, Mapping) and key in values:
            if not isinstance(values[key], Mapping):
                raise UserError(
                    f"{path}: key '{prefix}{key}' must hold keys of its own, but is {values[key]!r:.60}; the file was "
                    "damaged since it was written, restore it"
                )
            _refuse_emptied_sections(values[key], default, path, f"{prefix}{key}.")
