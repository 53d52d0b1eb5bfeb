"""The list of Christian, Muslim and Jewish words."""

import pytest
from bundled import RELIGION

RELIGION_SENTENCES = [
    (
        "The Christian went to church on Christmas.",
        "The Muslim went to mosque on Eid.",
        "The Jewish went to synagogue on Hanukkah.",
    ),
    (
        "She prays in a mosque and reads the Quran.",
        "She prays in a synagogue and reads the Torah.",
        "She prays in a church and reads the Bible.",
    ),
    (
        "The rabbi taught the Torah at the synagogue.",
        "The priest taught the Bible at the church.",
        "The imam taught the Quran at the mosque.",
    ),
    ("Christians, Muslims and Jews", "Muslims, Jews and Christians", "Jews, Christians and Muslims"),
    ("He is a Jew.", "He is a Christian.", "He is a Muslim."),
    ("She converted to Islam.", "She converted to Judaism.", "She converted to Christianity."),
    ("Merry Christmas!", "Eid Mubarak!", "Happy Hanukkah!"),
    ("The priests met two pastors.", "The imams met two imams.", "The rabbis met two rabbis."),
    ("He studied at a madrasa.", "He studied at a yeshiva.", "He studied at a seminary."),
    (
        "They fear islamophobia and antisemitism.",
        "They fear antisemitism and christophobia.",
        "They fear christophobia and islamophobia.",
    ),
    ("the Catholic Church and a Christmas tree",) * 3,
    ("Hans Christian Andersen saw Easter Island.",) * 3,
    ("JUDAISM and islam", "CHRISTIANITY and judaism", "ISLAM and christianity"),
    ("a non-Christian churchgoer", "a non-Muslim mosquegoer", "a non-Jewish synagogue-goer"),
    (
        "Sunday school follows the Sunday service.",
        "Quran school follows the Friday prayer.",
        "Hebrew school follows the Shabbat service.",
    ),
    ("the Talmud and the Hadith", "the Gospels and the Talmud", "the Hadith and the Gospels"),
    (
        "Ramadan begins; Passover is over.",
        "Passover begins; Easter is over.",
        "Easter begins; Ramadan is over.",
    ),
    ("an Islamic school", "a Jewish school", "a Christian school"),
    ("two biblical stories", "two quranic stories", "two talmudic stories"),
    ("the Qur’an, the Koran", "the Torah, the Torah", "the Bible, the Bible"),
    ("Sharia, or Islamic law", "Halakha, or Halakhah", "Canon law, or Canon law"),
    ("Buddhists of Mecca in Israel",) * 3,
]


@pytest.mark.parametrize("text, first, second", RELIGION_SENTENCES, ids=lambda text: text[:25])
def test_religious_sentences(text, first, second):
    assert [c.text for c in RELIGION.counterfactuals(text)] == [first, second]
