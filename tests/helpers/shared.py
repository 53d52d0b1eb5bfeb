"""What tests of all wings use: where the repository lies, the bundled lists of words, toy text and architectures."""

from pathlib import Path

from distill.text.wordlist import bundled_wordlists, wordlist_mistakes

REPOSITORY = Path(__file__).resolve().parent.parent.parent

# The bundled lists of words; the others hold phrases, and are companions of these.
WORD_LISTS = [name for name in bundled_wordlists() if not wordlist_mistakes(name)]

TOY_TEXT = (
    "The nurse said that she was tired. The doctor said that he was late. Her book was his, and his book was hers. "
    "The king and the queen saw him and her. A woman took her coat; a man took his coat. Nothing happened at all. "
)

NEUTRAL_TEXT = (
    "The nurse said that she was tired. The doctor said that he was late. The clerk said that they were here. "
    "Her book was his, and their book was hers; his was theirs. A man, a woman and a person saw him, her and them. "
    "The king, the queen and the monarch; a boy, a girl and a child; a son and a daughter. Themselves, himself. "
)

TOY_ARCHITECTURES = {
    "gpt2": {"n_positions": 64, "n_embd": 32, "n_layer": 4, "n_head": 2},
    "llama": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    },
    "gpt_neox": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    },
}
