"""Distil a causal language model into a smaller one and mitigate its bias on the way. How the data flow:

    recipe                                          YAML files and options -> one checked, frozen object
    wordlist, roles, first_names, counterfactual    a word list and a document -> the counterfactual, and its edits
    models, generation, resolvers                   teacher and student; prompts -> text; pronouns -> their roles
    corpus                                          files, a hub data set, or samples from the teacher -> documents
    alignment, packing, stream                      a document and its counterfactuals -> blocks of aligned tokens
    role_map, logit_ops, two_view                   the teacher's log-probabilities of all views -> the target
    kd_loss, teacher_cache, training_log, trainer   blocks, teacher, target -> a trained student
    metrics, score_cache, examples, score           models, prompts and held-out text -> scores with intervals
    findings, figures, page, model_card, report, comparison, study_report, study    scores -> tables, pages, card
    train, cli                                      the entries: all of it in this order, or one step by itself

Every module imports only from above it. Beside the flow stand what several steps or one command use:
`errors`, `long_input`, `integrity`, `console`, `processes`, `run_folder`, `checkpoints`, `step_watch`, `preflight`,
`recipe_docs`, `highlight`, `markdown_text`, `swap_lines`, `continuations`, `wordlist_check` and `wordlist_import`.
"""

__version__ = "0.1.0"
