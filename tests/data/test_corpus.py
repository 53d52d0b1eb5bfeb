"""A corpus and the key that its cache goes by."""

from distill.data.corpus import open_corpus
from distill.recipe import CorpusConfig


def test_the_key_follows_the_content(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    config = CorpusConfig(source="files", files=[str(path)])
    key = open_corpus(config, 0, tmp_path).key
    assert open_corpus(config, 5, tmp_path).key == key  # nothing is random here
    path.write_text("two")
    assert open_corpus(config, 0, tmp_path).key != key
