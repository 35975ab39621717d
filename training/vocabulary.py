"""The words of the built-in model and its tokenizer.

The vocabulary is closed: what the generated world can show, the words people ask about it with,
and everyday words that let the model notice a question it cannot answer. Anything else is <unk>.
"""

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel

UNKNOWN = "<unk>"
SPECIAL_TOKENS = (UNKNOWN, "<begin>", "<user>", "<watch>", "<assistant>", "<end>")

COLOURS = ("red", "green", "blue", "yellow", "pink", "white")
SHAPES = ("circle", "square", "triangle", "cross")
DIRECTIONS = ("left", "right", "up", "down")
NUMBERS = ("zero", "one", "two", "three", "four")
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}

_ASKING = """
you watch live video and answer about it
what which where who why when how is are was does do did can has have had see many much tell me
describe count name say show give color colors shape shapes kind object objects thing things
something anything nothing everything any some all there here a an the of in on at to from with
scene video picture frame screen view image way direction moving move moves going go goes moved
changed change changes happened happen happens just new different now still currently moment right
visible appears appear appeared disappears disappear disappeared gone left turned turns turn became
into stopped not no yes it its they them this that these those i know one please could would only
empty present contains contain exactly exist exists off visible and or but
"""

_EVERYDAY = """
dog cat bird horse cow fish car truck bus bike boat train plane road street tree flower grass house
door window room kitchen table chair bed lamp phone computer keyboard book bottle cup glass plate
knife fork food bread apple banana water coffee tea milk man woman person people child boy girl
baby face hand eye hair head shirt hat shoe bag box ball toy game music song movie story joke
weather rain snow sun moon star sky cloud sea river mountain city country world school work home
time day night morning today tomorrow yesterday year month week hour minute money price number
word letter language english french mean means think believe feel like love want need help make
made buy sell eat drink sleep run walk sit stand play read write speak talk hear listen sing dance
open close start stop begin old young big small large little tall short long fast slow hot cold
good bad happy sad angry hungry tired black brown purple orange gray gold silver wearing holding
doing called president king doctor teacher friend mother father brother sister your my his her our
their he she we us him hello hi thanks thank ok sorry capital best next last first second third
am be been being will should may might than then because if so very too more most less few often
ever never always people else before after again look looks looking hot maybe tell about
"""


def words() -> list[str]:
    """Every word in a fixed order: special tokens, the world, asking, everyday."""
    ordered = [*SPECIAL_TOKENS, *COLOURS, *SHAPES, *PLURALS.values(), *DIRECTIONS, *NUMBERS]
    ordered += _ASKING.split() + _EVERYDAY.split()
    return list(dict.fromkeys(ordered))


def build_tokenizer(more: Iterable[str] = ()) -> Tokenizer:
    """A word-level tokenizer that lower-cases, drops punctuation and reads colour as color.

    more: words of a wider world, which follow those of the shapes.
    """
    ordered = dict.fromkeys([*words(), *more])
    vocabulary = {word: index for index, word in enumerate(ordered)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex("['’]s\\b"), " is"),
            normalizers.Replace(Regex("['’]"), ""),
            normalizers.Replace(Regex("[^\\p{L}\\p{N}]+"), " "),
            normalizers.Replace("colour", "color"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer
