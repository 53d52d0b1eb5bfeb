"""Distil a causal language model into a smaller one and mitigate its bias on the way. How the data flow:

    recipe                              YAML files and options -> one checked, frozen object
    wordlist, roles, counterfactual     a word list and a document -> the counterfactual and where it was edited
    models, generation                  teacher and student; a model and prompts -> sampled text
    corpus                              files, a hub data set, or samples from the teacher -> documents
    alignment, packing                  a document and its counterfactuals -> blocks of aligned tokens
    role_map, logit_ops                 the teacher's log-probabilities on all views -> what the student is to learn
    kd_loss, trainer                    blocks, teacher, target -> a trained student
    metrics, score                      a model, prompts and held-out text -> scores with intervals
    report                              scores -> table, report and model card
    train, cli                          the entries: all of it in this order, or one step by itself

Every module imports only from above it. `errors`, `console`, `run_folder` and `recipe_docs` stand beside the flow.
"""

__version__ = "0.1.0"
