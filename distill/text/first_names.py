"""A listed first name in a text -> whether it is a person's first name there (Henry James: Henry is, James is none).

English only, deterministic, without a model. What stands around a name says how it is used:

- a surname: behind a first name, an initial or a title (Henry James, W. James, Mr. James), unless another one follows
  (Mr. James Smith);
- part of something else: saints, places, institutions (St. James, Lake Victoria, George Washington University);
- surely a first name: before a surname, or behind a title or a kinship term that takes one (Queen Victoria, his sister
  Rose);
- a person, by first name or surname (said Grant, Miss Grant), or nothing at all.

The occurrences in a document then judge each other, so that a name is treated alike all through it: "James went" is a
surname where "Henry James" went before. A name that is often something else (rose, will, Florence) is a first name only
where its own context or that of another occurrence says so.

On the validation articles on people of Wikipedia (`pytest tests/test_first_names.py -k wikipedia -s`), the first
mention of the person's first name is found in 137 of 137 articles, and 60 of 66 mentions of a surname that could be a
first name are left alone.

Limits: a surname that never stands behind a first name or a title is taken for a first name, and a first name that
stands alone but rarely, and often behind "Mr.", for a surname. Names joined by hyphens to unlisted ones (Karl-Heinz)
are left alone.
"""

import enum
import re
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import NamedTuple

RULE_VERSION = "1"  # raise it whenever the same text may be judged otherwise


class Candidate(NamedTuple):
    """A listed name, capitalised or in capitals, in a text: [start, end) in characters.

    ambiguous: the name is also a common word, a place, or a surname first of all.
    """

    start: int
    end: int
    ambiguous: bool


class _Use(enum.Enum):
    """What the words around an occurrence say of it."""

    FIRST = enum.auto()  # a first name
    MIDDLE = enum.auto()  # one that could be a surname, between a first name and a surname; alone it may be either
    SURNAME = enum.auto()
    AFTER_TITLE = enum.auto()  # behind a title of surnames, alone
    OTHER = enum.auto()  # no person's name, or part of a longer name that stays whole; says nothing of the others
    PERSON = enum.auto()  # a person, by first name or surname
    TITLED = enum.auto()  # behind a title that stands before first names and surnames alike
    PLACE = enum.auto()  # looks like a place; said of ambiguous names only
    NEUTRAL = enum.auto()
    OPENING = enum.auto()  # as NEUTRAL, and the capital says nothing either


def first_names(text: str, candidates: Sequence[Candidate]) -> list[bool]:
    """For every candidate, from left to right: whether it is a person's first name.

    The candidates of one text are judged together.
    """
    names = [text[start:end].lower() for start, end, _ in candidates]
    reader = _Reader(text, {name: ambiguous for name, (_, _, ambiguous) in zip(names, candidates, strict=True)})
    uses = [reader.use(candidate) for candidate in candidates]
    by_name: dict[str, list[_Use]] = {}
    for name, use in zip(names, uses, strict=True):
        by_name.setdefault(name, []).append(use)
    first = {
        name: _first_uses(of_name, reader.is_ambiguous[name], partial(reader.holds, name))
        for name, of_name in by_name.items()
    }
    return [use in first[name] for name, use in zip(names, uses, strict=True)]


def _first_uses(uses: list[_Use], is_ambiguous: bool, in_lower_case: Callable[[], bool]) -> set[_Use]:
    """The uses in which a name is a first name, by all of its uses in the document.

    in_lower_case: whether the document also has the name as a word in lower case.
    """
    first, surname, after_title, neutral, person, place = (
        uses.count(use) for use in (_Use.FIRST, _Use.SURNAME, _Use.AFTER_TITLE, _Use.NEUTRAL, _Use.PERSON, _Use.PLACE)
    )
    # A title says less than a first name: to his servants, Edward Rochester is Mr. Edward.
    as_surname = surname + after_title / 3
    introduced = next((use for use in uses if use in (_Use.FIRST, _Use.SURNAME, _Use.NEUTRAL)), None) is _Use.SURNAME
    is_surname = as_surname > first or (as_surname == first and introduced)
    # Once among many, what looks like a surname may be a misreading.
    if is_surname and (is_ambiguous or introduced or as_surname * _MANY > neutral):
        return {_Use.FIRST, _Use.MIDDLE}
    found = {_Use.FIRST, _Use.MIDDLE}
    if first:
        found.add(_Use.TITLED)
    if not is_ambiguous:
        found |= {_Use.PERSON, _Use.NEUTRAL}
        return found | {_Use.AFTER_TITLE} if first and neutral > 3 * after_title else found
    if place >= first + person:
        return found
    found.add(_Use.PERSON)
    if first or person > 1:
        found.add(_Use.NEUTRAL)
        if first + person > 4 or not in_lower_case():
            found.add(_Use.OPENING)
    return found


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Titles before surnames, or before a full name.
_SURNAME_TITLES = _set("""
    adm admiral alderman ambassador attorney brigadier capt capt'n captain chairman chancellor chief cmdr coach col
    colonel commandant commander commodore comrade congressman congresswoman constable corporal councillor cpl
    deacon deputy detective director doctor dr ensign farmer frau gen general gov governor herr hon honorable
    honourable inspector judge justice lieut lieutenant lt m madam madame maj major marshal mayor messrs minister
    mister mme monsieur mr mrs ms officer parson premier pres president private prof professor rabbi rep
    representative rev revd reverend sec secretary sen senator senor senora sergeant sergt señor señora sgt sheriff
    signor signora speaker squire superintendent
    """)
# Titles and kinship terms before first names.
_FIRST_TITLES = _set("""
    archduchess archduke aunt auntie aunty caesar cousin czar daddy dame emperor empress fräulein grandaunt
    grandfather grandma grandmamma grandmother grandpa grandpapa granduncle granny infanta kaiser king pope prince
    princess queen sir sultan tsar tsarina uncle
    """)
# Those of them that no surname follows.
_ROYAL_TITLES = _set("""
    archduchess archduke czar emperor empress infanta kaiser king pope prince princess queen sultan tsar tsarina
    """)
# Titles before either.
_EITHER_TITLES = _set("""
    abbot baron baroness bishop br bro brother cardinal count countess dom don dona doña duchess duke father fr
    friar lady laird lord mademoiselle marse mas'r massa master miss mistress mlle mother sister sr
    """)
# In lower case, before a first name alone (his sister Rose) or before a full name.
_KIN = _set("""
    aunt boyfriend brother brother-in-law child cousin dad daughter daughter-in-law father father-in-law fiancé
    fiancée girl girlfriend grandaughter granddaughter grandfather grandmother grandson great-grandfather
    great-grandmother half-brother half-sister husband mother mother-in-law nephew niece partner sister
    sister-in-law son son-in-law stepbrother stepdaughter stepfather stepmother stepsister stepson twin uncle wife
    """)
# Those of them that stand before surnames as often; and the names before which "lord" tells a younger son.
_BEFORE_SURNAMES_TOO = _set("lord mademoiselle miss mlle")
_LORDS = _set("""
    albert alfred arthur charles david edward frederick george henry james john joseph louis peter philip richard
    robert thomas walter william
    """)
_BEFORE_SAINT_OR_PLACE = _set("""
    camp cape el fort ft hotel isle lake las los mount mt point port puerto rio saint sainte san sankt sant santa
    santo sao sint ss st ste são villa
    """)
_PARTICLES = _set("""
    da das de del della der des di do dos du fitz la le mac mc ten ter van vander vom von y zu
    """)
# Two first names whose second could be a surname or another word.
_DOUBLE_NAMES = frozenset(
    {("billy", "ray"), ("john", "mark"), ("john", "paul")}
    | {
        (first, second)
        for first in _set("anna annie ella ellie emma eva hannah julia lillie lily lucy maria martha mary sarah")
        for second in _set("faith grace hope joy mae pearl rose ruby ruth violet")
    }
)
# Before the surname that ends a full name.
_LINKS = _PARTICLES | _set("af al av bin ibn st")
# Before the name of a place, capitalised: South Carolina.
_PARTS = _set(
    "central east eastern great greater little lower new north northern old south southern upper west western"
)
_ARTICLES = _set("the a an")

_CALENDAR = _set("""
    april august christmas december easter february friday january july june march may midsummer monday november
    october saturday september sunday thursday tuesday wednesday
    """)
# A capitalised word after a first name that is no surname.
_NO_SURNAMES = (
    _set("""
    a about across after again all also although always am an and any are as at aunt because been before bros but by
    came can cannot captain chairman chief co colonel come comes could did director do does dr esq for from gets
    gives goes governor had has have he her here his how however i'd i'll i'm i've if in into is it its i’d i’ll i’m
    i’ve jnr jr jun junior lady like lord makes may md might minister miss mp mr mrs ms must my nor not now of off
    on once one or our out over phd president professor secretary senator senior she should since sir snr so some
    speaker speaks sr takes tells that the their them then there these they this though to too uncle under until up
    upon was we were what when where which while who whose why will with would yet you your
    """)
    | _CALENDAR
)
_REGNAL = re.compile(r"(?:X{0,2}(?:IX|IV|V?I{1,3}|V)|X{1,2})\.?")
# What a name is part of when one of these words follows within the same run of capitals.
_NO_PERSON = _set("""
    abbey academy airport airways archipelago association ave avenue award awards basin bible blvd boulevard bros
    building canal canyon cathedral center centre championship championships chapel city club co collection college
    colleges commission committee company concerto conference convent corp corporation council county creek cup dam
    department diocese district division dynasty empire expedition f.c fc federation fellowship festival football
    foundation game games gardens gazette group harbor harbour herald highlands highway hospital hotel hotels
    hurricane inc inn institute institution island islanders islands isles journal junction kingdom league library
    ltd magazine medal memorial ministry mountain mountains museum nevada observatory olympic olympics open
    orchestra palace paralympics peninsula plan plateau polytechnic press prison prize province publications
    publishing quartet rangers records regiment region report republic review river road scholarship school schools
    seminary series society square stadium state station street studios summit symphony tech territory theater
    theatre times tournament township tribune trilogy trio trophy tunnel universiade university valley version
    volcano war zoo
    """)
# The same where a preposition of place or an article stands before the name: at Rose Hall.
_NO_PERSON_THERE = _set("""
    band bay beach bridge burn castle chronicles church corner cottage court cross dale day falls farm field fields
    ford forest garden gate green grove hall head heights hill hills house lake lakes land lane lodge manor mill
    moor park place point pond priory reader row show story terrace tower towers town village water way wharf wood
    woods
    """)
_PLACE_PREPOSITIONS = _set("across around at in inside into near on outside over through throughout within")
_IN = _PLACE_PREPOSITIONS - {"at", "on", "over"}

_BEFORE_TIME = _set("during each early every following last late next since this till until")
# A place follows these and "of".
_OF_PLACES = _set("""
    archbishop bank baron battle bishop city commonwealth count countess county diocese duchess duke earl governor gulf
    king kingdom lady lord lordship marquess marquis mayor palatine prince princess province queen republic siege state
    treaty university viscount
    """)
# Behind a name and a comma, these make it a place: Jackson, Mississippi.
_REGIONS = frozenset(
    name.replace("_", " ")
    for name in _set("""
    Alabama Alaska Alberta Arizona Arkansas Australia California Canada Colorado Connecticut Delaware
    England Florida France Georgia Germany Hawaii Idaho Illinois India Indiana Iowa Ireland Italy Jamaica Kansas
    Kentucky Louisiana Maine Manitoba Maryland Massachusetts Michigan Minnesota Mississippi Missouri Montana Nebraska
    Nevada New_Brunswick New_Hampshire New_Jersey New_Mexico New_York New_Zealand North_Carolina North_Dakota
    Ohio Oklahoma Ontario Oregon Pennsylvania Quebec Saskatchewan Scotland South_Africa South_Australia South_Carolina
    South_Dakota Spain Switzerland Tennessee Texas Utah Vermont Virginia Wales Washington West_Virginia Wisconsin
    Wyoming
    """)
)

_SPEECH = _set("""
    added admitted agreed announced answered asked assented began begged breathed called chuckled commanded
    commented complained concluded continued cried declared demanded drawled echoed ejaculated enquired exclaimed
    explained faltered gasped giggled grinned groaned growled grumbled inquired insisted interposed interrupted
    laughed moaned murmured muttered nodded objected observed panted persisted pleaded pondered promised protested
    pursued questioned quoth rejoined remarked repeated replied responded retorted returned said says scolded
    screamed shouted shrieked sighed smiled snapped snorted sobbed stammered suggested thought told urged ventured
    wailed warned whispered wondered yelled
    """)
_HUMAN_VERBS = _SPEECH | _set("""
    believed blushed decided felt forgot frowned gave gazed glanced guessed had hated heard hesitated hoped hurried
    jumped knelt knew knows laughs leaned liked listened looked looks loved loves married met nods obeyed ran
    realised realized recalled refused remembered sat saw shook shrugged shrugs shuddered sighs smiles sprang stared
    stares stepped stood swore thinks threw took tried turned understood walked walks wanted wants watched wept
    winced wished wore wrote
    """) - {"had", "called", "returned"}
# What may follow a subject that opens a sentence, and not a verb or a noun (Will you, Rose petals).
_AFTER_SUBJECT = _set("""
    also always am and are at ate began bought brought came can caught chose could did does drank drew drove fell
    felt fled flew fought found goes got grew had has held hid is just kept knew lay led left lost made may meant
    might must never only or ought paid put rang rode said sang sent set shall should slept sold spent spoke still
    stole stood struck taught then told took was went wept were who with woke won would wrote
    """)
_BEFORE_PERSON = _SPEECH | _set("""
    accompanied adored asking assured begged beside dear dearest embraced hugged informed kissed loved married
    marries marry met poor tell telling thank thanked
    """)
_PERSONAL_THINGS = _set("""
    arm arms aunt bedroom bosom brother cheek cheeks child children chin cousin daughter ear ears elbow eye eyes
    face father feet finger fingers forehead friend friends grandfather grandmother hair hand hands head heart
    husband knee knees lap lips mother mouth neck nephew niece room shoulder shoulders sister sisters smile son
    tears uncle voice wife
    """)

# Words that open a sentence before a name: Then James went.
_OPENERS = (
    _NO_SURNAMES
    | _SPEECH
    | _KIN
    | _set("""
    according actually additionally afterwards alas along amen among another apparently around aye
    back behind being below beneath beside besides between beyond big black blessed both brave bye certainly clever
    darling dear dearest despite down during each east eastern either elder eldest enter even ever every except exit
    far fat finally first former formerly fortunately generally gentle good grand great had half happy hello help
    hence henceforth hey hi holy honest hush immediately immortal indeed instead jolly just last late later leaving
    leetle left less lest let likewise little long lovely lower lucky many maybe meantime meanwhile mighty moreover
    most mostly much naughty near neither never nevertheless new next nice nobody none north northern notably
    nothing o of often oh old on only open opposite originally other otherwise outside past perhaps plain please
    poor presently pretty probably proud quick quite rather right round sad save say second seeing seldom several
    sharp shepherd short silly simple sly soon south southern still such suddenly sure sweet tall than thanks
    therefore thereupon think thirdly those through throughout thus till tiny tis today together tomorrow tonight
    true twas twice ugly unfortunately unhappy unless unlike upper usually very virgin was well were west western
    whatever whenever whereas wherever whether wicked wild wise within without won't worthy yea yes yesterday young
    younger
    """)
)
_NATIONS = _set("""
    czech dutch english french german greek indian irish jew scotch scots spanish swiss turk welsh yankee
    """)
_NO_NAME_ENDING = re.compile(r"(?:ly|ing|ed|ish|ese|ian|ean|ican|['’]s|['’]t|['’]d|['’]ve|['’]ll)$", re.IGNORECASE)

# Listed first names, none of them ambiguous, that are also usual surnames.
_SURNAMES = _set("""
    aaron abel abraham adam albert alexander alfonso alfred allan allison alton amos andrew angelo anthony arnold
    arthur asher ashley barry benjamin benny bernard beverly blaine bradford bradley braxton brock brody brooke
    bruce bryan bryce bryson byron calvin carlos carlton cecil charles christie christy clayton clifford clifton
    cody cole conner connor conrad corbin corey cornelius curtis dalton damon daniel darwin david delaney dennis
    derek desmond dewey dexter dick dillon doyle dwight easton edgar edward elias emanuel emmanuel emmett ervin
    esteban evelyn fabian faye felix floyd forrest frederick fredrick gabriel gavin george gerard gilbert glenn
    grady gregg gregory greyson haley hanna harry henry herbert herman hillary homer hubert irvin isaac jacob jamal
    james jameson jarrett jasper jerome joel john jonas joseph joyce julius keith kelsey kelvin kyle lamar lamont
    landon lara lauren laurence lawrence leland leo leon leonard leroy lester levi lewis lindsey lloyd louis lukas
    luke lyle lynne mack macy maddox malcolm malik mallory manuel marcos marcus martin marvin maurice mckenna
    mckenzie meredith michael michele milton moses nathan neal neil nicholas noah oliver omar otis owen paige
    patrick paul perry peter philip phillip randal randall raymond ricardo richard robert rodrigo roland rosa roy
    rudolph rufus ruth ryan ryder samuel saul sebastian sherman shirley simon simone solomon stephan stephen
    sylvester terrell thomas todd travis trent trevor tyrone tyson vance vincent virgil vivian walter wayne wendell
    wesley wilbur willard william wyatt xavier zane
    """)

# Words that a full stop shortens and does not end.
_ABBREVIATIONS = _set("""
    adm br brig bro bros capt cmdr col cpl dr esq fr ft gen gov hon jr lieut lt m maj messrs mlle mme mr mrs ms mt
    pres prof rep rev revd sec sen sergt sgt sr ss st ste
    """)

# Ambiguous names that are seldom surnames.
_NO_USUAL_SURNAMES = _set("""
    alexandria amber april aurora autumn bill bob bonnie brandy candy carol carolina charity chelsea cherie cheyenne
    crystal daisy della destiny dixie donna esmeralda eve faith florence gene geneva georgia ginger gloria grace
    hazel heather holly iris jasmine june laurel lily lorraine madeleine mark melody mercedes misty myrtle patty
    pearl penny regina rick rose rosemary ruby savannah scarlett serenity sherry sue summer victoria violet virginia
    will
    """)

# Lone occurrences for each that looks like a surname.
_MANY = 30
# The characters before a name that are read.
_REACH = 48
_HYPHENS = frozenset("-‐‑")
_HYPHEN = re.compile(r"[-‐‑]")
_PLACE_ENDS = frozenset(",.;)")
_SENTENCE_ENDS = frozenset('.!?:…"”*')
_OPENING_MARKS = "\"“‘'([*"
_MARKS = ".,;:!?…\"”’')]*" + _OPENING_MARKS
_QUOTES_BEFORE, _QUOTES_AFTER = frozenset("\"“‘'("), frozenset("\"”’')")
_NAME_BEFORE = re.compile(r"[A-Z][\w.'’-]* \S+$")
_RULER = re.compile(r"([A-Z][\w.'’-]*) of $")
_DAY_OF = re.compile(r"\d(?:st|nd|rd|th) (?:day )?of $")
_NICKNAME = re.compile(r"[\"”’')][ \xa0]+[A-Z]")
_POSSESSIVES = _set("your his her its their thy")
_MIDDLE_NAME = re.compile(r"[ \xa0]\w[\w'’-]*\.?[ \xa0]")
_NAMING = _set("baptised baptized called christened named nicknamed")
_NAMED = re.compile(
    r"(?:,|\b(?:also|and|baby|be|been|boy|brother|child|daughter|friend|girl|husband|is|lad|man|one|sister|son|was|were"
    r"|wife|woman)) \w+ $"
)
_PART_BEFORE = re.compile(r"(?:[^\W_]+[-‐‑])+$")
_PART_AFTER = re.compile(r"(?:[-‐‑][^\W_]+){1,4}")
_DASH = re.compile(r"--|[—–]")
_INITIALS = re.compile(r"(?:[A-Z]\.)*[A-Z]")
_NO_INITIALS = frozenset("AIOVX")  # words and chapter numbers
_FOLLOWING = re.compile(
    r"[ \xa0]+"
    r"(?:[\"“'‘(][^\W\d_][\w ]{0,16}[\"”'’)][ \xa0]+)?"  # James "Jimmy" Smith
    r"((?:[a-z]{1,6}\.?[ \xa0]+){0,3})"
    r"(?:[dlDLO]['’]|al-|el-)?"
    r"([^\W\d_](?:[\w&]|['’.-](?=\w))*)"
)
_RUN = re.compile(r"(?:[ \xa0]+[A-Z][\w'’.-]*){1,4}")
_CHAPTER_AND_VERSE = re.compile(r"[ \xa0]\d+:\d")
_NUMBER = re.compile(r",?[ \xa0]\d")
_REGION = re.compile(r",[ \xa0]((?:(?:New|North|South|West)[ \xa0])?[A-Z]\w+)")
_WORD_AFTER = re.compile(r"[ \xa0]+([^\W\d_]+)")
_OWN = re.compile(r"['’]s\b(?:[ \xa0]+([^\W\d_]+))?")
_CALLED_OUT = re.compile(r"[,.!?]+(?:--|—)?[\"”’']")
_AND_OWN = re.compile(r",? and (?:I|his|her|he|she)\b|, (?:who|whose|whom)\b")


_PERSONAL = frozenset({_Use.FIRST, _Use.MIDDLE, _Use.SURNAME, _Use.AFTER_TITLE, _Use.PERSON})


class _Chain(NamedTuple):
    """The candidate just read, to whose bearer the next one may belong.

    end: where it ended; person: whether it is a person there; royal: whether a title that takes first names only
    stands before it (Pope John Paul); there: whether an article or a preposition of place does.
    """

    end: int = -1
    person: bool = False
    royal: bool = False
    there: bool = False


class _Before(NamedTuple):
    """What stands before a name.

    word: the word before it, without punctuation, if nothing but space stands between; else empty.
    opens: whether the name opens a sentence, a line or a quotation.
    word_opens: whether the word before it does.
    comma: whether a comma stands before it; of_list: the capitalised word before the comma, within a sentence.
    nickname: whether a nickname in quotation marks or brackets stands before it (Friedrich "Fritz" Walter).
    """

    word: str = ""
    opens: bool = False
    word_opens: bool = False
    comma: bool = False
    of_list: str = ""
    nickname: bool = False


def _before(text: str, start: int) -> _Before:
    head = text[max(0, start - _REACH) : start]
    body = head.rstrip()
    if not body:
        return _Before(opens=True)
    if len(body) == len(head):  # a quotation mark, a bracket, a dash
        return _Before(opens=head[-1] not in "([/,;")
    line_break = "\n" in head[len(body) :]
    chunk = _DASH.split(body.split()[-1])[-1]
    word = chunk.strip(_MARKS)
    if not word:
        return _Before(opens=True)
    rest = body[: len(body) - len(chunk)]
    last = rest.rstrip()
    word_opens = not last or "\n" in rest[len(last) :] or last[-1] in _SENTENCE_ENDS or chunk[0] in _OPENING_MARKS
    trail = chunk[chunk.rfind(word) + len(word) :]
    if trail == "." and (word.lower() in _ABBREVIATIONS or _INITIALS.fullmatch(word)):
        return _Before(word, word_opens=word_opens)
    if line_break and not word.islower():
        return _Before(opens=True)
    if not trail:
        return _Before(word, word_opens=word_opens)
    if trail[0] in _QUOTES_AFTER and chunk[0] in _QUOTES_BEFORE and _NAME_BEFORE.search(body):
        return _Before(nickname=True)
    in_list = trail == "," and word[0].isupper() and not word_opens
    return _Before(opens=trail[0] not in ",;)’'", comma=trail == ",", of_list=word if in_list else "")


class _Reader:
    """Reads the uses of one text's candidates, from left to right.

    is_ambiguous: for every name of the candidates, in lower case.
    """

    def __init__(self, text: str, is_ambiguous: dict[str, bool]) -> None:
        self.is_ambiguous = is_ambiguous
        self._text = text
        self._chain = _Chain()

    @cached_property
    def words(self) -> frozenset[str]:
        """The text's words where white space delimits them."""
        return frozenset(self._text.split())

    def holds(self, word: str) -> bool:
        """Whether the word, spelled so, is one of the text's words."""
        return word in self.words

    def use(self, candidate: Candidate) -> _Use:
        """How the next candidate is used."""
        start, end, ambiguous = candidate
        written = self._text[start:end]
        extent = self._extent(start, end)
        if not extent:
            self._chain = _Chain()
            return _Use.OTHER
        before = _before(self._text, extent[0])
        chain = self._chain if self._continues(extent[0], before) else _Chain()
        word = before.word.lower()
        there = chain.there or word in _PLACE_PREPOSITIONS or word in _ARTICLES
        use = self._use(*extent, written, ambiguous, before, chain._replace(there=there))
        self._chain = _Chain(
            extent[1],
            person=use in _PERSONAL or (not ambiguous and use is not _Use.OTHER),
            royal=chain.royal or word in _ROYAL_TITLES,
            there=there,
        )
        return use

    def _continues(self, start: int, before: _Before) -> bool:
        """Whether at most a middle name or an initial stands between the candidate just read and the next."""
        between = self._text[self._chain.end : start] if 0 <= start - self._chain.end < _REACH else ""
        if between in (" ", "\xa0"):
            return True
        is_name = before.word[:1].isupper() and before.word.lower() not in _OPENERS
        return is_name and _MIDDLE_NAME.fullmatch(between) is not None

    def _extent(self, start: int, end: int) -> tuple[int, int] | None:
        """The name and the listed names that hyphens join to it (Mary-Ann), or None if it is part of another word."""
        text = self._text
        if start > 1 and text[start - 1] in "'’@" and text[start - 2].isalpha():  # O'Henry, d'Angelo
            return None
        parts = ""
        if text[start - 1 : start] in _HYPHENS and (
            joined := _PART_BEFORE.search(text[max(0, start - _REACH) : start])
        ):
            start, parts = start - len(joined[0]), joined[0]
        if joined := _PART_AFTER.match(text, end):
            end, parts = joined.end(), parts + joined[0]
        others = _HYPHEN.split(parts) if parts else ()
        if any(part and (part.islower() or part.lower() not in self.is_ambiguous) for part in others):
            return None
        return start, end

    def _use(self, start: int, end: int, written: str, ambiguous: bool, before: _Before, chain: _Chain) -> _Use:
        text, word = self._text, before.word.lower()
        may_be_surname = self._may_be_surname(written)
        if word in _BEFORE_SAINT_OR_PLACE and before.word[0].isupper():
            return _Use.OTHER
        if _CHAPTER_AND_VERSE.match(text, end) or (ambiguous and (word[:1].isdigit() or _NUMBER.match(text, end))):
            return _Use.OTHER
        may_be_place = ambiguous or chain.there or before.opens
        region = _REGION.match(text, end)
        if region and region[1] in _REGIONS and (may_be_place or text[region.end() : region.end() + 1] != " "):
            return _Use.OTHER
        if self._names_no_person(end, chain.there):
            return _Use.OTHER
        if (
            text[start - 1 : start] in _QUOTES_BEFORE
            and _NICKNAME.match(text, end)
            and _NAME_BEFORE.search(text, max(0, start - _REACH), end)
        ):
            return _Use.FIRST
        full = self._is_full_name(end, written, chain.person, chain.royal or word in _FIRST_TITLES)
        if before.word[:1].isupper():
            if word in _FIRST_TITLES:
                return _Use.FIRST
            if full and (word in _SURNAME_TITLES or word in _EITHER_TITLES):
                return _Use.FIRST
            if word in _SURNAME_TITLES:
                return _Use.AFTER_TITLE if may_be_surname else _Use.NEUTRAL
            if word in _EITHER_TITLES:
                return self._titled_use(word, written.lower(), ambiguous)
        if word in _ARTICLES and (ambiguous or not full):
            return _Use.OTHER
        if chain.person:
            if (word, written.lower()) in _DOUBLE_NAMES:
                return _Use.FIRST
            if not may_be_surname or chain.royal:
                return _Use.FIRST
            return _Use.MIDDLE if full else _Use.SURNAME
        if before.nickname:
            return _Use.SURNAME if may_be_surname and not full else _Use.NEUTRAL
        if word in _PARTICLES and not full:
            return _Use.SURNAME if may_be_surname else _Use.OTHER
        if _INITIALS.fullmatch(before.word) and before.word not in _NO_INITIALS:
            return _Use.FIRST if full else _Use.SURNAME if may_be_surname else _Use.NEUTRAL
        if word in _KIN and before.word.islower():
            return _Use.FIRST
        if word in _NAMING and _NAMED.search(text, max(0, start - _REACH), start):
            return _Use.FIRST
        if ambiguous:
            return self._ambiguous_use(start, end, written, before, full)
        if full:
            return _Use.FIRST
        joined = _HYPHEN.split(text[start:end])  # Lloyd-George
        if may_be_surname and (self._is_name(before) or (len(joined) > 1 and all(map(self._may_be_surname, joined)))):
            return _Use.SURNAME
        return _Use.NEUTRAL

    def _may_be_surname(self, written: str) -> bool:
        name = written.lower()
        return self.is_ambiguous.get(name, False) or name in _SURNAMES

    def _titled_use(self, title: str, name: str, ambiguous: bool) -> _Use:
        """The use behind a title that stands before first names and surnames alike."""
        if ambiguous:
            return _Use.FIRST if name in _NO_USUAL_SURNAMES else _Use.TITLED
        if name not in _SURNAMES or (title == "lord" and name in _LORDS):
            return _Use.NEUTRAL
        return _Use.TITLED if title in _BEFORE_SURNAMES_TOO else _Use.NEUTRAL

    def _ambiguous_use(self, start: int, end: int, written: str, before: _Before, full: bool) -> _Use:
        """The rest of `_use`, for a name that is also something else."""
        text, word = self._text, before.word.lower()
        if word in _IN:
            return _Use.PLACE
        ruler = _RULER.search(text, max(0, start - _REACH), start) if word == "of" else None
        if ruler and (ruler[1].lower() in _OF_PLACES or not full):
            return _Use.PLACE  # Duke of Kent, Sisters of Charity; but The Art of Frank Wright
        if word in _BEFORE_TIME or _DAY_OF.search(text, max(0, start - _REACH), start):
            return _Use.OTHER
        if word in _POSSESSIVES or word.endswith(("'s", "’s")):  # Your Grace, the old man's Will
            return _Use.OTHER
        if before.word[:1].isupper() and (word in _PARTS or (word in _CALENDAR and not before.word_opens)):
            return _Use.OTHER
        if full and not (before.opens or before.word[:1].isupper()):
            return _Use.FIRST
        if full:  # a heading, or the first words of a sentence
            match = _FOLLOWING.match(text, end)
            assert match is not None  # or else the name were not full
            following = match[2]
            if following.lower() in self.words or (written == "Will" and following.lower() in self.is_ambiguous):
                return _Use.OTHER
            return _Use.FIRST
        if self._is_name(before):
            return _Use.SURNAME
        if self._is_person(end, before):
            return _Use.PERSON
        item = before.of_list.lower()
        if item and text[end : end + 1] in _PLACE_ENDS and item not in _OPENERS and self.is_ambiguous.get(item, True):
            return _Use.PLACE  # Atlanta, Georgia
        if before.opens:
            if after := _WORD_AFTER.match(text, end):
                is_subject = after[1] in _AFTER_SUBJECT or after[1].endswith("ed")
                return _Use.NEUTRAL if is_subject else _Use.OTHER
            return _Use.NEUTRAL if _OWN.match(text, end) else _Use.OPENING
        return _Use.NEUTRAL

    def _is_person(self, end: int, before: _Before) -> bool:
        """Whether the words around show that a name is a person's."""
        text = self._text
        if before.word.lower() in _BEFORE_PERSON or _AND_OWN.match(text, end):
            return True
        if (own := _OWN.match(text, end)) and own[1] in _PERSONAL_THINGS:
            return True
        if (after := _WORD_AFTER.match(text, end)) and after[1] in _HUMAN_VERBS:
            return True
        return (before.comma or before.opens) and _CALLED_OUT.match(text, end) is not None

    def _is_full_name(self, end: int, written: str, second: bool, titled: bool) -> bool:
        """Whether a surname, another first name, or a monarch's number follows.

        second: whether a first name stands before; titled: whether a title does.
        """
        following = _FOLLOWING.match(self._text, end)
        if not following:
            return False
        links, word = following.groups()
        if not word[0].isupper() or not _LINKS.issuperset(links.replace(".", "").split()):
            return False
        if _REGNAL.fullmatch(word):
            return titled or (word != "I" and not second)  # Henry V, but Benjamin Harrison V
        if word.lower() in _NO_SURNAMES and not (
            len(word) == 1 and self._text[following.end() : following.end() + 1] == "."
        ):
            return False
        if 1 < len(word) < 6 and word.isupper() and not written.isupper():  # John Smith KB
            return False
        # In a heading in capitals, the next word may be anything.
        return not (written.isupper() and word.isupper() and word.lower() not in self.is_ambiguous)

    def _names_no_person(self, end: int, there: bool) -> bool:
        """Whether the name begins that of a place or an institution."""
        run = _RUN.match(self._text, end)
        if not run:
            return False
        for word in run[0].split():
            name = word.rstrip(".'’-").lower()
            if name in _NO_PERSON or (there and name in _NO_PERSON_THERE):
                return True
            if len(name) < len(word) and len(name) > 2:
                return False
        return False

    def _is_name(self, before: _Before) -> bool:
        """Whether the capitalised word before is a first name that no list holds (Ottoline James)."""
        word, lower = before.word, before.word.lower()
        if len(word) < 2 or not word[0].isupper() or word.isupper() or not word.isalpha():
            return False
        if lower in _OPENERS or lower in _NATIONS or _NO_NAME_ENDING.search(word):
            return False
        return not before.word_opens or lower not in self.words
