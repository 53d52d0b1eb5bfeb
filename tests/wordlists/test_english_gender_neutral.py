"""Every word of `english_gender` has a counterpart for people of any gender, or a reason why it has none."""

import pytest
from bundled import NEUTRAL

from distill.text.wordlist import load_wordlist

# Reason -> the rows of english_gender without one, by the word for men.
WITHOUT = {
    "the male form is used of everybody, and no other is in use": """
        master masters giant giants murderer murderers host hosts patron patrons benefactor benefactors hero heroes
        superhero superheroes antihero antiheroes wizard wizards sorcerer sorcerers enchanter enchanters ogre ogres
        demigod demigods tempter tempters adulterer adulterers seducer seducers emeritus priest priests prophet prophets
        deacon deacons rifleman riflemen huntsman huntsmen batsman batsmen bogeyman bogeymen sideman sidemen adman admen
        backwoodsman backwoodsmen guardsman guardsmen postmaster postmasters taskmaster taskmasters ringmaster
        ringmasters songster songsters executor executors testator procurer poet poets author authors tutor tutors
        manager proprietor conductor instructor ambassador sculptor hunter aviator comedian comedians usher ushers
        elector
    """,
    "the neutral word is mostly used of both together, as parents is": """
        fathers dads daddies papas grandfathers grandpas granddads grandads grandpapas great-grandfathers stepfathers
        step-fathers stepdads foster-fathers godfathers fathers-in-law
    """,
    "a title or a rank": """
        mister messrs sir sirs monsieur messieurs señor señores senor senors signor signors herr lordship lordships
        milord milords prince princes emperor emperors duke dukes grand-duke grand-dukes archduke archdukes marquess
        marquesses marquis earl earls count viscount viscounts baron barons baronet baronets tsar tsars czar czars
        sultan sultans maharaja maharajas maharajah maharajahs raja rajas abbot abbots monk monks
    """,
    "what is said of men and of women, and of nobody else in one word": """
        masculine masculinity masculinities maleness manhood manly manliness unmanly mannish boyhood boyish boyishly
        boyishness fatherland fatherlands brotherhood brotherhoods brotherly husbandly paternity fraternity fraternities
        patriarchal patriarchy patriarchies patrilineal patrilineally patrilocal widowerhood gentlemanly kingly
        androcentric misogyny misogynist misogynists misogynistic
    """,
    "its counterpart has another one: a girl is a child, and a dude is none": "dude dudes",
    "no word that is in use, or one that is mostly something else (fan, worker, singer)": """
        fanboy fanboys boyz playboy playboys strongman strongmen brotha brothas milkman milkmen airman airmen washerman
        washermen workman workmen nurseryman nurserymen bondsman bondsmen headwaiter headwaiters houseboy houseboys
        chanteur chanteurs seamster seamsters
    """,
}
WITHOUT_IN_SEVERAL_WORDS = {"baby daddy"}
GENDER_ROWS = load_wordlist("english_gender+none").rows
NEUTRAL_ROWS = load_wordlist("english_gender_neutral+none").rows


def without_counterpart() -> set[str]:
    return {word for words in WITHOUT.values() for word in words.split()} | WITHOUT_IN_SEVERAL_WORDS


def test_every_row_of_english_gender_has_a_neutral_word_or_a_reason_for_none():
    listed = {word for row in NEUTRAL_ROWS for word in row.words}
    missing = {row.words[0] for row in GENDER_ROWS if not listed.issuperset(row.words)}
    assert missing == without_counterpart()


def test_every_word_has_one_reason_at_most():
    words = [word for of_reason in WITHOUT.values() for word in of_reason.split()]
    assert len(words) == len(set(words))


def test_what_is_used_of_everybody_is_so_in_both_lists():
    generic = {row.words for row in GENDER_ROWS if row.generic}
    for row in NEUTRAL_ROWS:
        assert row.generic == (row.words[:2] in generic), row.words


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("the actor", "the actor", "the actor"),
        ("an actress", "a performer", "an actor"),
        ("a performer", "an actor", "an actress"),
        ("his great-aunt", "her grandparent's sibling", "their great-uncle"),
        ("a bachelor", "a bachelorette", "an unmarried person"),
        ("an old maid", "an old unmarried person", "an old bachelor"),
        ("a gentlewoman", "a person", "a gentleman"),
        ("hes late", "shes late", "theyre late"),
        ("an oarsman", "an oarswoman", "a rower"),
        ("a nobleman", "a noblewoman", "an aristocrat"),
        ("her maid", "their domestic servant", "his manservant"),
    ],
)
def test_counterfactuals_in_both_directions(text, first, second):
    assert [found.text for found in NEUTRAL.counterfactuals(text)] == [first, second]
