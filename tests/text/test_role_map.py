"""Word list + tokenizer -> token ids, for byte-level and sentencepiece-like tokenizers, trained and made by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import WORD_LISTS
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GPT2TokenizerFast, PreTrainedTokenizerFast

from distill.base.errors import UserError
from distill.objective.logit_ops import build_role_maps
from distill.text.role_map import token_roles, tokens_without_row
from distill.text.wordlist import load_wordlist

PRONOUNS = "he\tshe\t\nhim\ther\tobject\nhis\ther\tdeterminer\nhis\thers\tpronoun"
SENTENCES = [
    "he said that she saw him, and she said that he saw her.",
    '"He gave his book to her," said the king. She gave hers to the queen, and his to him.',
    "HE AND SHE, THE KING AND THE QUEEN, HIS AND HERS, HIM AND HER.",
    "The queen and the king. King and Queen! Her crown is hers; his is his. Him? Hers.",
    "He\nShe\nHis\nHer\nHim\nHers\nKing\nQueen",
]


@pytest.fixture
def words(tmp_path):
    """A function from the rows of a word list to the list."""

    def make(rows, header="male\tfemale\twhen"):
        path = tmp_path / "list.tsv"
        path.write_text(header + "\n" + rows + "\n", encoding="utf-8")
        return load_wordlist(path)

    return make


def byte_level(tokens, extra=()):
    """A byte-level BPE that merges each of the tokens from left to right, so that it has all their beginnings too."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary, merges = dict.fromkeys(sorted(alphabet)), {}
    for token in tokens:
        for end in range(2, len(token) + 1):
            vocabulary[token[:end]] = None
            merges[token[: end - 1], token[end - 1]] = None
    vocabulary.update(dict.fromkeys(extra))
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def trained_byte_level(size=400):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(SENTENCES * 3, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def trained_metaspace(size=200):
    """As sentencepiece does it: a word-initial space is a part of the token, and the text begins with one."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="first"),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Split("\n", "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(SENTENCES * 3, trainers.BpeTrainer(vocab_size=size, special_tokens=["<unk>"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.fixture(scope="module")
def gpt2(shared_data):
    return GPT2TokenizerFast.from_pretrained(str(shared_data("gpt2_tokenizer", "vocab.json").parent))


def as_tokens(tokenizer, roles, shift=1):
    """The edges of a shift, readable."""
    return {tuple(tokenizer.convert_ids_to_tokens(list(edge))) for edge in roles.edges[shift - 1]}


def both_ways(*pairs):
    return {*pairs, *((b, a) for a, b in pairs)}


def assert_lawful(roles, num_groups):
    """What every result must keep: closed, no token in two groups, a shift undone by the opposite one."""
    assert len(roles.groups) == num_groups and len(roles.edges) == num_groups - 1
    group_of = {token: group for group, tokens in enumerate(roles.groups) for token in tokens}
    assert len(group_of) == sum(map(len, roles.groups))
    assert all(0 <= token < roles.vocab_size for token in group_of)
    for shift, edges in enumerate(roles.edges, start=1):
        assert {s for s, _ in edges} == {d for _, d in edges} == set(group_of)
        assert all((group_of[s] - group_of[d]) % num_groups == shift for s, d in edges)
        assert {(d, s) for s, d in edges} == set(roles.edges[num_groups - shift - 1])
    build_role_maps(roles.edges, roles.vocab_size)


@pytest.mark.parametrize("name", WORD_LISTS)
def test_every_bundled_list_with_gpt2(gpt2, name):
    wordlist = load_wordlist(name)
    roles = token_roles(wordlist, gpt2, len(gpt2))
    assert_lawful(roles, wordlist.num_groups)
    for shift, edges in enumerate(roles.edges, start=1):
        for source, destination in edges:
            here, there = gpt2.decode([source]), gpt2.decode([destination])
            assert here.startswith(" ") == there.startswith(" ")
            here, there = here.strip(), there.strip()
            assert [c.isupper() for c in here[:1]] == [c.isupper() for c in there[:1]]
            back = {word for word, _ in wordlist.counterparts(here.lower(), wordlist.num_groups - shift)}
            forth = {word for word, _ in wordlist.counterparts(there.lower(), shift)}
            assert there.lower() in back or here.lower() in forth
    assert 0 < len(roles.unmovable) < roles.num_words == len(wordlist.words)


def test_pronouns_with_gpt2(gpt2, words):
    roles = token_roles(words(PRONOUNS), gpt2, len(gpt2))
    edges = as_tokens(gpt2, roles)
    assert edges == both_ways(
        *[("Ġhe", "Ġshe"), ("ĠHe", "ĠShe"), ("ĠHE", "ĠSHE"), ("He", "She")],
        *[("Ġhis", "Ġher"), ("ĠHis", "ĠHer"), ("ĠHIS", "ĠHER"), ("His", "Her")],
        *[("Ġhim", "Ġher"), ("ĠHim", "ĠHer"), ("ĠHIM", "ĠHER")],  # "Him" is two tokens
        *[("Ġhis", "Ġhers"), ("ĠHis", "ĠHers")],
    )
    assert roles.unmovable == ()
    # He is a word at the start of a line; he and HE there are pieces of others: t-he, T-HE.
    assert not {"he", "she", "HE", "his", "her"} & {token for edge in edges for token in edge}


def test_trained_byte_level_tokenizer(words):
    tokenizer = trained_byte_level()
    roles = token_roles(words(PRONOUNS + "\nking\tqueen\t"), tokenizer, 512)
    assert_lawful(roles, 2)
    assert roles.vocab_size == 512
    assert both_ways(("Ġhe", "Ġshe"), ("Ġhis", "Ġher"), ("Ġhim", "Ġher"), ("Ġking", "Ġqueen")) <= as_tokens(
        tokenizer, roles
    )
    assert ("He", "She") in as_tokens(tokenizer, roles)


def test_trained_metaspace_tokenizer(words):
    tokenizer = trained_metaspace()
    roles = token_roles(words(PRONOUNS + "\nking\tqueen\t"), tokenizer, len(tokenizer))
    assert_lawful(roles, 2)
    edges = as_tokens(tokenizer, roles)
    assert both_ways(("▁he", "▁she"), ("▁his", "▁her"), ("▁him", "▁her"), ("▁king", "▁queen")) <= edges
    assert both_ways(("He", "She"), ("King", "Queen")) <= edges  # after a line break there is no space
    assert all(("▁" in source) == ("▁" in destination) for source, destination in edges)


def test_a_word_of_several_tokens_moves_by_a_first_token_of_its_own(words):
    duke = words("duke\tduchess\t")
    tokenizer = byte_level(["Ġduke", "Ġduch"], extra=["Ġduches"])  # an entry along the same word does no harm
    assert tokenizer.tokenize("a duchess")[1:] == ["Ġduch", "e", "s", "s"]
    assert as_tokens(tokenizer, token_roles(duke, tokenizer, 999)) == both_ways(("Ġduke", "Ġduch"))


@pytest.mark.parametrize(
    ("rows", "tokens", "expected"),
    [
        ("duke\tduchess\t\ndukes\tduchesses\t", ["Ġduke", "Ġduch"], set()),  # two listed words begin with it
        ("duke\tduchess\t\nduch\tgirl\t", ["Ġduke", "Ġduch", "Ġgirl"], {("Ġduch", "Ġgirl")}),  # it is a listed word
        ("duke\tduchess\t", ["Ġduke", "Ġduch", "Ġduchy"], set()),  # another word of the vocabulary begins with it
        ("spokesman\tspokeswoman\t", ["Ġspokes"], set()),  # both groups begin with it
        ("duke\tduchess\t", ["Ġduch"], set()),  # the other word has no token
        ("ogre\tyeti\t", ["Ġogre", "Ġy"], set()),  # a single letter
        ("ogre\téris\t", ["Ġogre", "ĠÃ"], set()),  # a part of a letter
    ],
)
def test_a_first_token_that_is_not_its_own_stays(words, rows, tokens, expected):
    tokenizer = byte_level(tokens)
    assert as_tokens(tokenizer, token_roles(words(rows), tokenizer, 999)) == both_ways(*expected)


def test_titles_move_only_where_they_are_capitalised(words):
    tokenizer = byte_level(["Ġmr", "Ġmiss", "ĠMr", "ĠMiss", "Mr", "Miss", "ĠMR", "ĠMISS"])
    roles = token_roles(words("mr\tmiss\ttitle"), tokenizer, 999)
    assert as_tokens(tokenizer, roles) == both_ways(("ĠMr", "ĠMiss"), ("Mr", "Miss"))


def test_a_one_way_row_is_an_edge_both_ways(words):
    """P(Ms | c) has to go somewhere, and P(Mr | c) may be hers: the teacher's own prediction tells Mrs from Ms."""
    tokenizer = byte_level(["Ġmr", "Ġmrs", "Ġms"])
    roles = token_roles(words("mr\tmrs\t\nmr\tms\tone-way"), tokenizer, 999)
    assert as_tokens(tokenizer, roles) == both_ways(("Ġmr", "Ġmrs"), ("Ġmr", "Ġms"))


def test_three_groups(words):
    wordlist = words("red\tgreen\tblue\noak\telm\tash", header="a\tb\tc")
    tokenizer = byte_level(["Ġred", "Ġgreen", "Ġblue", "Ġoak", "Ġelm"])
    roles = token_roles(wordlist, tokenizer, 999)
    assert_lawful(roles, 3)
    # A word of group g + 1 in the counterfactual stands where the original has g.
    assert as_tokens(tokenizer, roles, 1) == {("Ġgreen", "Ġred"), ("Ġblue", "Ġgreen"), ("Ġred", "Ġblue")}
    assert as_tokens(tokenizer, roles, 2) == {("Ġblue", "Ġred"), ("Ġred", "Ġgreen"), ("Ġgreen", "Ġblue")}
    assert roles.unmovable == ("oak", "elm", "ash")  # without " ash", the row would not be closed
    assert roles.num_words == 6


def test_a_token_that_two_groups_claim_is_left_alone(words):
    tokenizer = byte_level(["Ġnino", "Ġnina", "Ġana"])
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    roles = token_roles(words("niño\tniña\t\nana\taná\t"), tokenizer, 999)
    assert as_tokens(tokenizer, roles) == both_ways(("Ġnino", "Ġnina"))
    assert roles.unmovable == ("ana", "aná")


def test_a_tokenizer_without_letter_case_has_every_edge_once(words):
    tokenizer = byte_level(["Ġhe", "Ġshe", "she", "he"])
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    roles = token_roles(words("he\tshe\t"), tokenizer, 999)
    assert as_tokens(tokenizer, roles) == both_ways(("Ġhe", "Ġshe"), ("he", "she"))
    assert_lawful(roles, 2)


def test_a_script_without_letter_case_moves_words_without_a_space(words):
    tokenizer = trained_byte_level()
    he, she = (tokenizer.tokenize(word) for word in "他她")
    tokenizer = byte_level(["".join(he), "".join(she)])
    roles = token_roles(words("他\t她\t"), tokenizer, 999)
    assert as_tokens(tokenizer, roles) == both_ways(("".join(he), "".join(she)))


def test_unknown_words_are_not_moved(words):
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "he": 2, "she": 3, '"': 4}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    roles = token_roles(words("he\tshe\t\nking\tqueen\t"), tokenizer, 5)
    assert as_tokens(tokenizer, roles) == both_ways(("he", "she"))
    assert roles.unmovable == ("king", "queen")


def test_a_tokenizer_larger_than_the_model_is_the_users_mistake(words):
    tokenizer = byte_level(["Ġhe", "Ġshe"])
    with pytest.raises(
        UserError, match=rf"has {len(tokenizer)} tokens, but the model predicts only {len(tokenizer) - 1}"
    ):
        token_roles(words("he\tshe\t"), tokenizer, len(tokenizer) - 1)


def test_a_special_token_that_text_models_have_no_row_for_is_no_mistake(words):
    """As that of an image in the tokenizer of Gemma 3's text models."""
    tokenizer = byte_level(["Ġhe", "Ġshe"])
    rows = len(tokenizer)
    plain = token_roles(words("he\tshe\t"), tokenizer, rows)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    assert max(tokenizer.get_vocab().values()) == rows and tokens_without_row(tokenizer, rows) == []
    assert token_roles(words("he\tshe\t"), tokenizer, rows) == plain
    tokenizer.add_tokens(["word"])
    assert tokens_without_row(tokenizer, rows) == [rows + 1]
    tokenizer.add_special_tokens({"eos_token": "<end>", "pad_token": "<pad>"})  # which every text may meet
    assert sorted(tokens_without_row(tokenizer, rows)) == [rows + 1, rows + 2, rows + 3]


@pytest.fixture(scope="module")
def small_tokenizers():
    return trained_byte_level(330), trained_metaspace(90)


@given(
    data=st.data(),
    chosen=st.lists(
        st.text(st.sampled_from("hersinkgqu'-é"), min_size=1, max_size=6).filter(lambda w: w.strip("'-") == w),
        min_size=2,
        max_size=12,
        unique=True,
    ),
)
@settings(max_examples=60, deadline=None)
def test_any_list_gives_a_lawful_map(tmp_path_factory, small_tokenizers, data, chosen):
    groups = data.draw(st.integers(2, min(3, len(chosen))))
    rows = [chosen[i : i + groups] for i in range(0, len(chosen) - groups + 1, groups)]
    path = tmp_path_factory.mktemp("lists") / "list.tsv"
    path.write_text(
        "\n".join("\t".join(row) for row in [[f"group{g}" for g in range(groups)], *rows]), encoding="utf-8"
    )
    wordlist = load_wordlist(path)
    for tokenizer in small_tokenizers:
        assert_lawful(token_roles(wordlist, tokenizer, len(tokenizer)), groups)
