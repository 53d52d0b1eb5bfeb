"""Models that bring code of their own."""

import json
from pathlib import Path

CODE = """\
from pathlib import Path
from transformers import GPT2Config, GPT2LMHeadModel
Path({trace!r}).mkdir(exist_ok=True)
class OwnConfig(GPT2Config):
    model_type = 'own_kind'
class OwnModel(GPT2LMHeadModel):
    config_class = OwnConfig
"""


def with_own_code(folder: Path, trace: Path) -> Path:
    """The folder of a GPT-2, made one whose code lies beside it and makes the folder `trace` when it is run."""
    (folder / "own.py").write_text(CODE.format(trace=str(trace)), encoding="utf-8")
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    with_keys(folder / "config.json", model_type="own_kind", architectures=["OwnModel"], auto_map=classes)
    return folder


def with_keys(path: Path, **keys: object) -> None:
    """Lay keys over those of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | keys), encoding="utf-8")
