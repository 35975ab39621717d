"""Catalogue of what the wide world can show: items with their emoji, colours, words on signs, and
the split.

A combination of an object and a motion is either trained on or held out, by a stable hash: a model
that is right about held-out ones knows the motion and the object, not the pair.
"""

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from training.vocabulary import SHAPES

Split = Literal["train", "held_out", "measured"]
"""Who may see a thing: training, the examination, or what measures a model's doubt between them."""

# Colours that things are tinted in, RGB.
PAINTS = {
    "red": (214, 38, 42),
    "orange": (242, 134, 30),
    "yellow": (243, 212, 50),
    "green": (46, 160, 67),
    "blue": (46, 96, 222),
    "purple": (132, 62, 178),
    "pink": (242, 126, 190),
    "brown": (128, 80, 44),
    "black": (32, 32, 34),
    "white": (244, 244, 244),
}
TINTS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")

# noun=emoji; a trailing * marks what can be any of TINTS.
_GROUPS = {
    "animal": """
        dog=🐕 cat=🐈 rabbit=🐇 fox=🦊 bear=🐻 panda=🐼 koala=🐨 tiger=🐅 lion=🦁 cow=🐄
        pig=🐖 frog=🐸 monkey=🐒 chicken=🐔 penguin=🐧 duck=🦆 owl=🦉 horse=🐎 snake=🐍
        turtle=🐢 octopus=🐙 crab=🦀 dolphin=🐬 whale=🐳 butterfly=🦋 snail=🐌 bee=🐝
        elephant=🐘 sheep=🐑 camel=🐪""",
    "food": """
        apple=🍎 pear=🍐 lemon=🍋 banana=🍌 watermelon=🍉 strawberry=🍓 cherry=🍒
        peach=🍑 pineapple=🍍 coconut=🥥 avocado=🥑 eggplant=🍆 potato=🥔 carrot=🥕
        corn=🌽 pepper=🌶 broccoli=🥦 mushroom=🍄 bread=🍞 cheese=🧀 egg=🥚 burger=🍔
        pizza=🍕 taco=🌮 donut=🍩 cookie=🍪 cake=🎂 pretzel=🥨""",
    "vehicle": """
        car=🚗* bus=🚌 truck=🚚* tractor=🚜 train=🚂 plane=✈ helicopter=🚁 rocket=🚀
        boat=⛵ ship=🚢 bicycle=🚲 scooter=🛵""",
    "product": """
        lipstick=💄 handbag=👜* backpack=🎒* dress=👗* shirt=👕* jeans=👖 coat=🧥
        scarf=🧣* glove=🧤* sock=🧦* hat=👒 cap=🧢* crown=👑 ring=💍 sneaker=👟 heel=👠*
        boot=👢 sandal=👡 purse=👛* glasses=👓 watch=⌚ phone=📱 laptop=💻 camera=📷
        headphones=🎧 radio=📻 television=📺 bulb=💡 flashlight=🔦 candle=🕯 clock=⏰
        teddy=🧸 balloon=🎈* gift=🎁 book=📕* pencil=✏ broom=🧹 soap=🧼 sponge=🧽
        lotion=🧴 umbrella=☂ guitar=🎸 drum=🥁 violin=🎻 trumpet=🎺 football=⚽
        basketball=🏀 racket=🏸 skateboard=🛹 mug=☕ spoon=🥄 vase=🏺 key=🔑 hammer=🔨
        wrench=🔧 magnet=🧲 battery=🔋 telescope=🔭 microscope=🔬 yarn=🧶* thread=🧵
        dice=🎲 puzzle=🧩 robot=🤖 scissors=✂""",
    "plant": "tree=🌳 cactus=🌵 rose=🌹 sunflower=🌻 tulip=🌷* leaf=🍁 palm=🌴",
    "prohibited": """
        cigarette=🚬 knife=🔪 dagger=🗡 gun=🔫 bomb=💣 syringe=💉 pill=💊 beer=🍺 wine=🍷
        axe=🪓""",
    "sky": "star=⭐ moon=🌙 cloud=☁ sun=☀ heart=❤* ghost=👻 snowman=⛄",
    "cover": "box=📦 house=🏠 door=🚪 castle=🏰",
    "hand": "hand=✊🏻 hand=✊🏼 hand=✊🏽 hand=✊🏾 hand=✊🏿",
    "host": "host=👩 host=👨 host=🧑🏽 host=👩🏿 host=👨🏻",
}
GROUP_PLURALS = {
    "animal": "animals",
    "vehicle": "vehicles",
    "plant": "plants",
    "shape": "shapes",
    "food": "pieces of food",
}
_WITHOUT_ARTICLE = {"jeans", "glasses", "headphones", "scissors", "bread", "corn", "cheese"}
_WITHOUT_ARTICLE |= {"broccoli", "lotion", "soap", "yarn", "thread", "beer", "wine"}
_WITHOUT_ARTICLE |= {"pants", "shorts", "milk", "juice", "yoghurt", "garlic", "ginger", "asparagus"}
_PLURALS = {"fox": "foxes", "octopus": "octopuses", "butterfly": "butterflies", "box": "boxes"}
_PLURALS |= {"cherry": "cherries", "strawberry": "strawberries", "sheep": "sheep", "wolf": "wolves"}
_PLURALS |= {"peach": "peaches", "cross": "crosses", "mouse": "mice", "leaf": "leaves"}
_PLURALS |= {"watch": "watches", "bus": "buses", "tomato": "tomatoes", "potato": "potatoes"}
_PLURALS |= {"cactus": "cactuses", "torch": "torches", "knife": "knives"}

_SIGN_WORDS = """
sale new hot open closed stop exit free best deal today now only last win gift cash shop buy love
happy hello welcome menu push pull start end tea coffee taxi hotel bank park zoo cafe bar live news
vote fresh sold out big small cheap vip
"""
SIGN_WORDS = tuple(_SIGN_WORDS.split())
DRAWINGS = ("house", "sun", "tree", "boat", "fish", "star", "heart", "cup", "flower", "face")
ACTS = (
    *("still", "left", "right", "up", "down"),
    *("up left", "up right", "down left", "down right"),
    *("grow", "shrink", "blink", "hide", "swap", "hold", "draw"),
)
DIRECTIONS = ACTS[1:9]
_HELD_OUT_ONE_IN = 8


@dataclass(frozen=True, slots=True)
class Item:
    """A kind of thing: its noun, emoji (empty for shapes), group, and whether it is tintable."""

    noun: str
    code: str
    group: str
    tintable: bool = False


@lru_cache(maxsize=1)
def items() -> tuple[Item, ...]:
    """Everything with a sprite, in the order of the atlas, then the shapes."""
    found: list[Item] = []
    for group, text in _GROUPS.items():
        for entry in text.split():
            noun, code = entry.split("=")
            found.append(Item(noun, code.rstrip("*"), group, code.endswith("*")))
    return (*found, *(Item(shape, "", "shape", True) for shape in SHAPES))


@lru_cache(maxsize=32)
def in_groups(*groups: str) -> tuple[Item, ...]:
    return tuple(item for item in items() if item.group in groups)


def plural(noun: str) -> str:
    return _PLURALS.get(noun, noun if noun in _WITHOUT_ARTICLE else f"{noun}s")


def with_article(name: str) -> str:
    """ "a dog", "an apple", "glasses", "a red apple"."""
    if name.split()[-1] in _WITHOUT_ARTICLE:
        return name
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


@lru_cache(maxsize=8192)
def is_held_out(noun: str, act: str) -> bool:
    """Whether things called `noun` never do `act` in training."""
    return act != "still" and zlib.crc32(f"{noun} {act}".encode()) % _HELD_OUT_ONE_IN == 0
