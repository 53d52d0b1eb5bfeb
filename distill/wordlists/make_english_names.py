"""Makes `english_names.tsv` and `english_more_names.tsv`: male and female first names, paired so that the two of a pair
are about as common.

    python distill/wordlists/make_english_names.py us_first_names_1930_2015.csv fiction.jsonl.xz people.jsonl.xz

The first file holds births by name (name, female_births, male_births); the others are JSON lines (also .xz) with the
document in the field "text". The list that is shipped comes from the US Social Security counts of 1930 to 2015 (names
with at least 20,000 births), 185 books of English fiction (Project Gutenberg) and the lead sections of 4,164 Wikipedia
articles on people, whose titles and genders (the fields "page" and "gender") also give names that are rare in the US.
Needs scipy; takes less than a minute, and the same files give the same list. It prints how close the pairs are.

1. Left out: names of which fewer than 95% of the births are of one sex (of twenty people of a listed name, at most one
   is taken for the other; at 90%, where Kim's kind begins, two); words of `english_gender` (earl, guy); and names
   whose other reading no context tells apart (`LEFT_OUT`).
2. `ambiguous`: names that the corpora also show as a common word, a surname or a place, by the shares below, and
   `ALSO_SOMETHING_ELSE`.
3. Pairs, after Maudslay et al. 2019 ("It's All in the Name: Mitigating Gender Bias with Name-Based Counterfactual Data
   Substitution"): the bipartite matching with the least sum of Euclidean distances in log10 of the births and in the
   share of one sex, each divided by its standard deviation over the listed names, so that neither outweighs the other.
   There are more women's names than men's. So that those left over are ones that texts hold least, a pair gains
   `KNOWN` for every tenfold of the documents that hold its names. Names that begin alike (Alec, Alecia) gain up to
   `ALIKE` where one is at most `MOST_UNLIKE` times as common as the other. Both names of a pair stand in the column of
   the sex that 95% of their bearers have, so that no pair crosses what is known of who bears them. A row is ambiguous
   if one of its names is: a pair of which only one is costs `MIXED`, gains nothing, and comes about only where one
   side runs out of ambiguous names.
4. Further names without US counts, of the titles and of `FURTHER`: paired with each other in the same way, by the
   documents that hold them.
5. Names that are left over go one way: they become the name that costs least, which keeps its own counterpart. So no
   woman of a text stays a woman because there are more women's names.
"""

import argparse
import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.optimize

from distill.base.row_files import whole_rows
from distill.text.wordlist import load_wordlist

OUTPUT = Path(__file__).resolve().with_name("english_names.tsv")


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


ONE_SIDED = 0.95
NEARLY_ONE_SIDED = 0.88  # these go one way: of eight people of such a name, one is taken for the other at most
# In standard deviations, as the distances are.
KNOWN = 1.0
MIXED = 4.0
ALIKE = 0.3
MOST_KNOWN = 200_000  # births of names that gain so: for commoner ones there is little choice
MOST_UNLIKE = 1.5  # how many times as common one of two names that begin alike may be, to gain by it

# A name is ambiguous where at least this share, and at least that number, of its occurrences are ...
IN_LOWER_CASE = (0.1, 5)  # ... the word in lower case: rose
AS_PLACE = (0.1, 5)  # ... behind in, from, near or into, and no other capitalised word follows: in Florence
WITH_NUMBER = (0.1, 5)  # ... beside a number: April 12
WITH_ARTICLE = (0.2, 5)  # ... behind the, a or an, and no other capitalised word follows: an Oscar
AS_SURNAME = (0.3, 5)  # ... of the documents that hold the name: behind a first name, an initial, Mr., Mrs. or Dr.

# What the corpora are too old or too small to show: places, other words and names, surnames first of all.
ALSO_SOMETHING_ELSE = _words("""
    alberta austin carolina cheyenne dixie georgia hudson lorraine madison mariana orlando regina savanna savannah troy
    victoria weston
    gene mercedes norman oscar paisley scarlett sienna
    brady bryant dawson donovan kendrick nelson nolan preston reid sheldon winston
    """)
# Names of what is no person, but stand where a person's name may (Asia Minor, Roman Catholic, Heaven forbid); titles
# and parts of names (Don Carlos, Van Gogh, Sammy Davis Junior); and one of which one bearer comes before all others.
NO_FIRST_NAMES = _words("""
    abu admiral archbishop archduke big blessed blind bishop black bounty brigadier brother cardinal captain
    chief colonel count crown dame dauphin doctor duc duchess emperor empress father field general grand
    grandmaster guru her his ibn imam infante infanta khan king lady lieutenant little lord madame major marshal
    master miss mother notorious pharaoh pope president prince princess professor queen rabbi raja red saint san
    santa sheikh shah sir sister sri sultan swami the tsar viscount von van der den del della des dos mac mrs
    big new old north south east west young yung lil chen cao chang chiang chu deng fan feng gao guo han hong
    huang jiang jin kang kim lai lee lei liang lin liu long mao meng park peng ping qian shi sima song sun tang
    tran tian wang wen wei wong woo xiao yang yuan zeng zhang zhao zheng zhou zhu ahn bae cho choi jung kwon
    moon nguyen ryu shin yoo yoon
    """)
LEFT_OUT = _words("""
    asia christian genesis heaven india israel kenya roman sierra
    don junior van
    jesus
    """)

# Common names and short forms of names that the births and the titles lack: international ones, and those of friends.
FURTHER = {
    False: _words("""
        abdul adolf ahmed akira alain alberto aldo aleksandr alessandro alexandre alexei alfie algernon ali
        alphonse amir anatole anders andrei andrej angus antoine anton antonin archibald archie aristide arne
        arnaud arturo augustus axel baptiste barnaby bartholomew bengt bertie bertrand bill bjorn boris cecil
        cedric chuck claude clive colm constantin cornelius cuthbert damien denis desmond didier dieter
        dietrich dimitri dirk dmitri dmitry eamon eduard emil emile emilio enrico enrique erich ernst errol
        etienne evgeny fabio federico felipe fergus fernand fidel filippo finlay freddie freddy friedrich
        fritz fyodor gareth gaston georg georges gerhard gianni gilles giorgio giovanni giuseppe goran graeme
        graham guido guillaume gunnar gunther gustav gustave hamid hank hans harald hassan heinrich heinz
        helmut henri henrik hermann hideo hiroshi horace horst hubert hugo humphrey hussein ibrahim ignacio
        igor ingmar ismail ivor jacques jakob jan janos jaroslav jean-claude jean-paul jeroen jiri joachim
        joao johan johann johannes josef juergen jules karel karim karl-heinz kaspar kazuo kenji khalid klaus
        konrad konstantin kristian lars laurent leif leonid leopold lorenzo luca luciano ludwig luigi magnus
        malcolm manfred marcel marcelo marco marek massimo matteo matthias maxime michel mickey miguel mikhail
        miles milos miroslav mohammad mohammed mohamed moritz moshe muhammad murray mustafa napoleon neville
        nick nicolai niels nigel nikita nikolai nikos nils olaf ole oleg oleksandr olivier osama otto pablo
        paolo pascal pavel per percy peregrine phil philippe pierre piers pieter piotr quentin rafael rahul
        rajesh ravi raj rasmus raoul reggie reinhard rene rhys rob rod roland rolf romeo rory rudolf rudolph
        rupert sacha salman salvatore sanjay satoshi sebastien serge sergei sergey sergio shinji siegfried
        sigmund silvio slobodan stefan steffen stepan sven takashi tariq tarquin terence theo thierry thorsten
        tobias toby tomas tomasz tommaso umberto uwe valentin vasily viktor vijay vincenzo vito vlad kieran
        flavius paddy aleksey ayrton bertrand toshiaki toshiyuki kazuki gervase norbert oskar randolf
        raffaello piero mekere thaksin alexandru kristofer arnim vasek uichiro cheick akiva hamish hiram
        ichiro isamu itzhak jacek joost jorn josip jurgen kenzo kofi lech levon lothar lubomir mehdi mehmet
        milan mordecai naoki naveen nasser nikola oleksiy ovidiu pekka radu ramesh ramiz rashid refik rohan
        roope saad sanjiv sebastian shlomo shigeru simeon sandor stanislav stelios sukarno sunil suresh
        tadeusz tahir takeshi tiberius tibor timur tito tuomas ulrich vaclav vikram vincente vytautas wojciech
        xavier yakov yitzhak yevgeny yoshi zbigniew zdenek zygmunt titus lucius gaius rod al les herb tad
        rusty spike lars ali gian vic len marty gus russ ned ted dick jock alf reg stu mitch vince vladimir
        waldo werner wilfred wilhelm will willem wolfgang xavi yann yannick yasser yves yuri yusuf zoltan
        """),
    True: _words("""
        adela adele adelaide agatha agnes agnieszka aida aisha aishwarya alessandra aleksandra alina aline
        alma amalia anais anastasia anja anjelica anneliese annika antoinette anya arabella aretha ariadne
        astrid augusta aurora ayesha beata beatrix benazir benedetta berenice bettina bianca-maria birgit
        brigid brigitte britta camilla carlotta carmela caterina cate catarina celeste celine chantal charlize
        chiara cilla clarissa clementine colette consuelo corinne cosima cordelia cressida dagmar daphne
        davina deepika deirdre delphine desdemona dorothea dorothée edwina eileithyia ekaterina elena eleonora
        elfriede elif elisabeth elke ellie eloise elsa elspeth emilia emmeline enid estelle eudora eugenie
        euphemia evelyne evgenia fatima fatma federica felicity fiona flavia flora francesca francoise
        françoise freda freya frida gabriela gemma genevieve georgette georgie gerda geraldina germaine
        ghislaine gillian gina giovanna giulia gisela greta gretchen gudrun guinevere gunilla gwen gwyneth
        hedwig heidi helena helene helga henrietta hermione hilary hilda hildegard honor hortense ida ilona
        ilse imelda imogen indira ines inga ingeborg inger ingrid irina isabel isabelle isadora isolde ivana
        ivanka jana janine jeannette jemima jenna jessie joanie johanna jolanta juliana juliet juliette
        justine kamala karin karina katarina kate katerina katharina kathe katia katja keira kerstin kirsten
        kitty ksenia lakshmi lara larissa laure lavinia leila lena leonie leonora letitia lidia lieselotte
        lili liliana linnea liv liza lizzie lola lottie louisa luciana lucia lucinda lucrezia ludmila luisa
        madeleine madge madonna magda magdalena maggie maisie malala mara marcella mareike margaux margarita
        margherita margit margot marguerite mariam marianne marie-louise marija marina mariska marlena marta
        martine mathilde matilda maud meera meg meghan mei meryl mette michaela mieko mila milena mina minna
        mireille mirjam moira monika muriel nadezhda nadia nadine nastassja natalia natalya nefertiti nell
        nellie nicola nigella nina-maria noor noreen odette olga olympia oksana ottilie pamela-anne parvati
        paulina penelope perdita petra philippa philomena phoebe pia pippa polina polly portia prudence
        priyanka radhika rafaela ramona raquel rebekah renata rosalind rosamund rosanna rosetta roswitha
        rowena roxana sabine sadie sakura salma samira saoirse sabina sandrine saskia shanti sheila shirin
        sian sieglinde sigrid silvia simone sinead siobhan sita snezana sofie solange sonia sonja sophie
        stefania steffi susanna susannah svetlana sybil tamsin tania tatiana tatyana thea theodora thérèse
        therese tilda tilly trudy ulrike una ursula uta valentina vera verena veronika victoire viola violetta
        virginie collette gemma justine asha supriya romola coretta condoleezza norah clarrie liz parvathy
        mouna kirstine elisabet alanis gregoria scarlet rebeca ramya faida yiyun aiza krystal vickie willa
        elle jemma keiko kumiko leyla linnéa magnhild maryam masako michiko midori mitsuko nahid nasrin
        natsuki nilufar nisha noriko pooja padma polly pratibha rania rekha reiko rukmini sachiko sangeeta
        sarita savitri sevgi shabana shobha sirikit sita smita sumiko sunita sushma tomoko ulla urszula
        vasilisa vibeke waltraud wangari yukiko yumi zhanna zofia zsuzsa zuzana cate felicity elle bree dolly
        patsy letty hattie nan peg tess trish viviane wilhelmina winifred xenia yasmin yelena yevgenia yoko
        yuki yulia zadie zainab zara zelda zeynep zsa
        """),
}

_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]|\n")
_POSSESSIVE = re.compile(r"['’]s$")
_TITLES = frozenset({"Mr", "Mrs", "Dr"})
_BEFORE_PLACE = frozenset({"in", "from", "near", "into"})
_ARTICLES = frozenset({"the", "a", "an"})


@dataclass(frozen=True)
class Name:
    """A first name (lower case): births, the share of them that are of its own sex, and whether it is female."""

    name: str
    births: int
    share: float
    female: bool


def read_births(path: Path) -> list[Name]:
    """All names of the table, in its order."""
    names = []
    with path.open(encoding="utf-8", newline="") as rows:
        for row in csv.DictReader(rows):
            female, male = int(row["female_births"]), int(row["male_births"])
            births = female + male
            names.append(Name(row["name"].lower(), births, max(female, male) / births, female > male))
    return names


def rows(path: Path) -> Iterator[Mapping]:
    """The rows of a file of JSON lines."""
    return (row for _, row in whole_rows(path, None))


def documents(path: Path) -> Iterator[str]:
    """The texts of a file of JSON lines."""
    for row in rows(path):
        yield row["text"]


def further_names(paths: Iterable[Path], known: Iterable[Name], uses: "Uses") -> list[Name]:
    """Names that the births lack: of the titles of articles on people, where all that bear one are of one sex.

    What is also a word in the texts, or somebody's surname in the titles, is left out unless `FURTHER` has it.
    """
    bearers: dict[str, set[bool]] = {}
    last: set[str] = set()
    for path in paths:
        for row in rows(path):
            parts = row.get("page", "").replace("_", " ").split()
            if len(parts) > 1 and row.get("gender") in ("f", "m"):
                bearers.setdefault(parts[0].lower(), set()).add(row["gender"] == "f")
                last.add(parts[-1].lower())
    found = {name: min(sexes) for name, sexes in bearers.items() if len(sexes) == 1}
    for female, names in FURTHER.items():
        found |= {name: female for name in names if female in bearers.get(name, (female,))}
    taken = {*(name.name for name in known), *load_wordlist("english_gender").words, *LEFT_OUT, *NO_FIRST_NAMES}
    return [
        Name(name, 0, 1.0, female)
        for name, female in sorted(found.items())
        if name not in taken
        and name.isalpha()
        and len(name) > 2
        and (name in FURTHER[female] or not (name in last or uses.is_word(name)))
    ]


class Uses:
    """How texts use the names: counters by name.

    lower, capital: occurrences in lower case and capitalised; place, number, article: of the capitalised, those that
    look like one; documents, surname: documents that hold the name capitalised, and as a surname.
    """

    def __init__(self, names: Iterable[Name]) -> None:
        self.is_female = {name.name: name.female for name in names}
        self.lower: Counter[str] = Counter()
        self.capital: Counter[str] = Counter()
        self.documents: Counter[str] = Counter()
        self.place: Counter[str] = Counter()
        self.number: Counter[str] = Counter()
        self.article: Counter[str] = Counter()
        self.surname: Counter[str] = Counter()
        self.lower_as_word: Counter[str] = Counter()
        self.capital_as_word: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """Counts one document."""
        tokens = ["\n", "\n", *(_POSSESSIVE.sub("", token) for token in _TOKEN.findall(text)), "\n"]
        seen, surnames = set(), set()
        self.lower_as_word.update(token for token in tokens if token.islower())
        self.capital_as_word.update(token.lower() for token in tokens if token.istitle())
        for index in range(2, len(tokens) - 1):
            token, name = tokens[index], tokens[index].lower()
            if name not in self.is_female:
                continue
            if token == name:
                self.lower[name] += 1
            if token != name.capitalize():
                continue
            before_last, before, after = tokens[index - 2], tokens[index - 1], tokens[index + 1]
            seen.add(name)
            self.capital[name] += 1
            self.number[name] += before[0].isdigit() or after[0].isdigit()
            if after[0].isupper() and after != "I":
                continue
            self.place[name] += before in _BEFORE_PLACE
            self.article[name] += before in _ARTICLES
            if self._ends_in_surname(name, before_last, before):
                surnames.add(name)
        self.documents.update(seen)
        self.surname.update(surnames)

    def is_word(self, name: str) -> bool:
        """Whether the texts have a further name in lower case, too."""
        return self.lower_as_word[name] > 0.02 * (1 + self.capital_as_word[name])

    def _ends_in_surname(self, name: str, before_last: str, before: str) -> bool:
        """Whether what stands before makes the name a surname; a woman's name behind another (Mary Ann) is none."""
        if before == ".":
            return before_last in _TITLES or (len(before_last) == 1 and before_last.isupper())
        if before in _TITLES:
            return True
        is_first_name = before.istitle() and before.lower() in self.is_female and before.lower() not in LEFT_OUT
        return is_first_name and not (self.is_female[name] and self.is_female[before.lower()])

    def is_ambiguous(self, name: str) -> bool:
        """Whether the name is often something else in these texts, or known to be."""
        capital, all_documents = self.capital[name], self.documents[name]
        return name in ALSO_SOMETHING_ELSE or any(
            part >= least and part >= share * whole
            for part, whole, (share, least) in (
                (self.lower[name], self.lower[name] + capital, IN_LOWER_CASE),
                (self.place[name], capital, AS_PLACE),
                (self.number[name], capital, WITH_NUMBER),
                (self.article[name], capital, WITH_ARTICLE),
                (self.surname[name], all_documents, AS_SURNAME),
            )
        )


def choose(names: Iterable[Name]) -> list[Name]:
    """The names that can be listed: one-sided, and no word or name of anything else that no context tells apart."""
    taken = {*load_wordlist("english_gender").words, *LEFT_OUT}
    return [name for name in names if name.share >= ONE_SIDED and name.name not in taken]


Pair = tuple[Name, Name]


def _costs(
    names: list[Name], ambiguous: set[str], documents: Mapping[str, int], known: float = KNOWN
) -> tuple[list[Name], list[Name], np.ndarray]:
    """Men's names, women's names, and (men, women) what it costs to pair them.

    documents: in how many texts a name occurs; known: what a pair gains for every tenfold of them.
    """
    points = np.array([(np.log10(name.births or 1 + documents[name.name]), name.share) for name in names])
    points /= np.maximum(points.std(axis=0), 1e-9)
    gain = known * np.log10([1 + documents[name.name] for name in names])
    mark = np.array([name.name in ambiguous for name in names])
    female = np.array([name.female for name in names])
    cost = np.linalg.norm(points[~female, None] - points[None, female], axis=-1)
    mixed = mark[~female, None] != mark[None, female]
    cost += np.where(mixed, MIXED, -gain[~female, None] - gain[None, female])
    men, women = ([name for name in names if name.female == sex] for sex in (False, True))
    births = np.log10([name.births or 1 + documents[name.name] for name in names])
    near = np.abs(births[~female, None] - births[None, female]) < np.log10(MOST_UNLIKE)
    near &= (births[~female, None] < np.log10(MOST_KNOWN)) & (births[None, female] < np.log10(MOST_KNOWN))
    cost -= ALIKE * near * np.array([[alike(man.name, woman.name) for woman in women] for man in men])
    return men, women, cost


def alike(man: str, woman: str) -> float:
    """How alike two names begin: 0, and up to 1 for three letters."""
    return next((n for n in (3, 2, 1) if man[:n] == woman[:n]), 0) / 3


def match(names: list[Name], ambiguous: set[str], documents: Mapping[str, int]) -> list[Pair]:
    """Pairs (male, female) with the least sum of costs, the most common men's names first.

    documents: in how many texts a name occurs.
    """
    men, women, cost = _costs(names, ambiguous, documents)
    found = zip(*scipy.optimize.linear_sum_assignment(cost), strict=True)
    return _sorted((men[row], women[column]) for row, column in found)


def one_way(names: list[Name], pairs: list[Pair], ambiguous: set[str], documents: Mapping[str, int]) -> list[Pair]:
    """For every name without a pair, the pair with that name of the other sex that costs least and has one."""
    men, women, cost = _costs(names, ambiguous, documents, known=0)
    paired = {name for pair in pairs for name in pair}
    of_men = cost + np.where([woman in paired for woman in women], 0, np.inf)
    of_women = cost + np.where([man in paired for man in men], 0, np.inf)[:, None]
    found = [(men[of_women[:, c].argmin()], woman) for c, woman in enumerate(women) if woman not in paired]
    return _sorted(found + [(man, women[of_men[r].argmin()]) for r, man in enumerate(men) if man not in paired])


def _sorted(pairs: Iterable[Pair]) -> list[Pair]:
    return sorted(pairs, key=lambda pair: (-pair[0].births, pair[0].name, pair[1].name))


_US = "US Social Security counts of births by first name, 1930 to 2015 (public domain)"
_TITLES_OF_ARTICLES = "titles of Wikipedia's articles on people, genders as Wikidata has them (CC0); common knowledge"


def table(pairs: list[Pair], ambiguous: set[str], more: list[Pair] | None = None) -> str:
    """The word list's text; with `more`, that of further names, of which these go one way."""
    is_more = more is not None
    lines = [
        "# name: english_more_names" if is_more else "# name: english_names",
        "# description: first names that are rarer in the US, and names without a partner of their own"
        if is_more
        else "# description: first names of men and women in the US, paired by how common and how one-sided they are",
        "# licence: Apache-2.0",
        "# version: 1" if is_more else "# version: 2",
        "# language: en",
        f"# source: {_TITLES_OF_ARTICLES}" if is_more else f"# source: {_US}",
        "# made-by: make_english_names.py, which says how; do not edit by hand",
        "# groups: male, female",
        *(() if is_more else ("# with: english_more_names",)),
        "male\tfemale\twhen",
    ]
    for of, mark in ((pairs, ""), (more or (), " one-way")):
        for male, female in of:
            is_ambiguous = {male.name, female.name} & ambiguous
            lines.append(f"{male.name}\t{female.name}\tname{' ambiguous' if is_ambiguous else ''}{mark}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("births", type=Path, help="CSV with the columns name, female_births, male_births")
    parser.add_argument("corpora", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    all_names = read_births(options.births)
    uses = Uses(all_names)
    for path in options.corpora:
        for text in documents(path):
            uses.add(text)
    names = choose(all_names)
    ambiguous = {name.name for name in names if uses.is_ambiguous(name.name)}
    pairs = match(names, ambiguous, uses.documents)
    options.output.write_text(table(pairs, ambiguous), encoding="utf-8")
    further = further_names(options.corpora, all_names, uses)
    ambiguous |= {name.name for name in further if uses.is_word(name.name)}
    more = match(further, ambiguous, uses.documents)
    nearly = [
        replace(name, share=ONE_SIDED)
        for name in all_names
        if NEARLY_ONE_SIDED <= name.share < ONE_SIDED and name.name not in LEFT_OUT
    ]
    ambiguous |= {name.name for name in nearly if uses.is_ambiguous(name.name)}
    left = one_way(names + nearly, pairs, ambiguous, uses.documents) + one_way(further, more, ambiguous, uses.documents)
    more_output = options.output.with_name(f"english_more_names{options.output.suffix}")
    more_output.write_text(table(more, ambiguous, left), encoding="utf-8")
    print(f"{len(further)} further names, {len(more)} pairs; {len(left)} names go one way")
    ratios = np.array([max(m.births, f.births) / min(m.births, f.births) for m, f in pairs])
    differences = np.array([abs(m.share - f.share) for m, f in pairs])
    births = sum(name.births for pair in pairs for name in pair) / sum(name.births for name in all_names)
    print(
        f"{len(all_names)} names, {len(names)} can be listed, {len(pairs)} pairs with {births:.1%} of the births; "
        f"{sum(bool({m.name, f.name} & ambiguous) for m, f in pairs)} ambiguous, "
        f"{sum((m.name in ambiguous) != (f.name in ambiguous) for m, f in pairs)} of them in one name only"
    )
    print(
        f"within a pair: ratio of births median {np.median(ratios):.2f}, 9 of 10 below {np.quantile(ratios, 0.9):.2f}; "
        f"difference in the share of one sex median {np.median(differences):.4f}, 9 of 10 below "
        f"{np.quantile(differences, 0.9):.4f}"
    )


if __name__ == "__main__":
    main()
