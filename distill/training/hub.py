"""The student's repository on the model hub: made before the training, filled when the student has been scored."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from transformers import TrainingArguments

from distill.base.console import say
from distill.base.errors import UserError, first_line
from distill.recipe import Recipe
from distill.training.arguments import training_arguments


def hub_repository(arguments: TrainingArguments) -> tuple[HfApi, str]:
    """Make the hub's repository for the student, and the branch that is asked for, or find them there.

    Args:
        arguments: `hub_model_id`, `hub_token`, `hub_private_repo` and `hub_revision` are read.

    Returns:
        The hub, and the repository's full id.

    Raises:
        UserError: the hub cannot be reached, or refuses.
    """
    hub = HfApi(token=arguments.hub_token, library_name="distill")
    try:
        repository = hub.create_repo(arguments.hub_model_id, private=arguments.hub_private_repo, exist_ok=True)
    except (OSError, ValueError, HTTPError) as error:
        raise UserError(
            f"trainer.push_to_hub: no repository {arguments.hub_model_id} to push to ({first_line(error)}); log in "
            "with `hf auth login`, or check trainer.hub_model_id"
        ) from None
    branch = arguments.hub_revision
    if branch is not None and not branch.startswith("refs/"):  # those of pull requests are there, or cannot be made
        try:
            hub.create_branch(repository.repo_id, branch=branch, exist_ok=True)
        except (OSError, ValueError, HTTPError) as error:
            raise UserError(
                f"trainer.hub_revision: no branch {branch} of {repository.repo_id} to push to ({first_line(error)}); "
                "name another one, or leave it out"
            ) from None
    return hub, repository.repo_id


def push_student(recipe: Recipe, folder: Path) -> None:
    """Upload the finished student with its card to the hub, if `trainer.push_to_hub` says so.

    Args:
        recipe: Its `trainer.hub_model_id` (by default the name of the run's folder), `hub_token`, `hub_private_repo`
            and `hub_revision` mean what they mean to Trainer.
        folder: The run's folder, which holds `student/`.

    Raises:
        UserError: the hub cannot be reached, or refuses.
    """
    arguments = training_arguments(recipe, folder)
    if not arguments.push_to_hub:
        return
    hub, repository = hub_repository(arguments)
    try:
        commit = hub.upload_folder(
            repo_id=repository,
            folder_path=folder / "student",
            commit_message="The student, with its model card",
            revision=arguments.hub_revision,
        )
    except Exception as error:  # what fails while a file is sent comes as an error of several libraries
        why = " ".join(str(error).split()) or type(error).__name__  # of a card that is refused, below the first line
        raise UserError(
            f"trainer.push_to_hub: the push to {repository} failed ({why.rstrip('.')}); the student is finished in "
            f"{folder / 'student'}, and the same command tries again"
        ) from None
    say(f"pushed the student: {commit}")
