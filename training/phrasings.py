"""The ways to ask each kind of question, {} standing for what it is about."""

COLOUR = (
    "what color is the {}",
    "which color is the {}",
    "what is the color of the {}",
    "tell me the color of the {}",
    "what color does the {} have",
)
SHAPE = (
    "what shape is the {} object",
    "what is the {} object",
    "what shape is the {} thing",
    "what is the shape of the {} object",
    "which shape is {}",
    "what is {}",
)
COUNT = (
    "how many objects are there",
    "how many objects do you see",
    "how many things are there",
    "how many objects are in the scene",
    "how many shapes are there",
    "how many objects are in the video",
    "how many shapes do you see",
    "count the objects",
)
COUNT_SOME = ("how many {} are there", "how many {} do you see", "how many {} are in the scene")
PRESENCE = (
    "is there a {}",
    "do you see a {}",
    "can you see a {}",
    "is a {} there",
    "is there a {} in the scene",
    "is a {} in the scene",
    "is there any {}",
)
PRESENCE_COLOUR = (
    "is there anything {}",
    "is there something {}",
    "do you see something {}",
    "do you see anything {}",
    "is anything {}",
    "is something {} there",
)
ANYTHING = ("is there anything", "is anything there", "do you see anything", "is there an object")
DIRECTION = (
    "which way is the {} moving",
    "which way is the {} going",
    "in which direction is the {} moving",
    "what direction is the {} moving",
    "which direction is the {} moving",
    "where is the {} going",
    "where is the {} moving",
)
CHANGE = (
    "what changed",
    "what has changed",
    "what just changed",
    "what happened",
    "what just happened",
    "what is different",
    "what is new",
    "tell me what changed",
)
PLAIN_SCENE = "What is in the scene?"
SCENE = (
    "what is in the scene",
    "describe the scene",
    "what do you see",
    "what is there",
    "what can you see",
    "what is in the video",
    "what is in the picture",
    "tell me what you see",
    "describe what you see",
    "what is in the frame",
    "what objects are there",
    "which objects are there",
    "what is in the scene now",
    "what do you see now",
)
IT_COLOUR = ("what color is it", "which color is it", "what is its color")
IT_SHAPE = ("what shape is it", "what is it", "what is its shape")
IT_DIRECTION = (
    "which way is it moving",
    "which way is it going",
    "where is it going",
    "in which direction is it moving",
)
IT_MOVING = ("is it moving", "does it move")
WATCH = (
    "a {} is there",
    "there is a {}",
    "you see a {}",
    "a {} is visible",
    "a {} is in the scene",
    "a {} appears",
    "a {}",
)
WATCH_COLOUR = ("something {} is there", "there is something {}", "something {} appears")
WATCH_COUNT = (
    ("nothing is there", "the scene is empty", "there is nothing", "there are no objects"),
    ("there is one object", "there is exactly one object", "one object is there"),
    ("there are two objects", "there are exactly two objects", "two objects are there"),
    ("there are three objects", "there are exactly three objects", "three objects are there"),
)
UNKNOWN = (
    "who is the {}",
    "who is {}",
    "what time is it",
    "what is the weather like",
    "tell me a joke",
    "how old are you",
    "what is your name",
    "where is the {}",
    "why is the {} {}",
    "is there a {}",
    "do you see a {}",
    "is the {} {}",
    "what is the {} doing",
    "what color is the {}",
    "how many {} are there",
    "what is the capital of {}",
    "who are you",
    "what does the {} say",
    "can you {} a {}",
    "which way is the {} moving",
    "is the {} happy",
    "when did the {} {}",
    "{} {}",
    "{}",
    "what is the {} wearing",
    "hello",
    "what is a {}",
    "how do i {} a {}",
)
_EVERYDAY = """
dog cat bird horse car truck bus bike boat road street tree flower house door window room table
chair bed phone computer book bottle cup bread apple water coffee man woman person people child
boy girl face hand hair shirt hat bag box ball toy game music movie weather rain snow sun moon
sky cloud sea river city country school money price english brown purple orange black president
king doctor teacher friend mother father eat drink sleep run walk read write play sing dance
"""
NOUNS = tuple(_EVERYDAY.split())
