"""The hand-written phrase bank: everything the catalogue and the corpus are made of.

Tables are written as text, one row a line, `key | sentence`; an indented line continues the one above.
Names in braces are filled in by `make_catalogue.py`; `a(n)` becomes `a` or `an`.
"""


def lines(text: str) -> list[str]:
    """Split a block of text into rows, joining indented lines to the row above."""
    rows: list[str] = []
    for line in text.strip("\n").split("\n"):
        if line.startswith(" "):
            rows[-1] += " " + line.strip()
        else:
            rows.append(line.strip())
    return rows


def table(text: str) -> dict[str, str]:
    """Read rows `key | sentence` into a dictionary."""
    return {key.strip(): value.strip() for key, value in (row.split("|", 1) for row in lines(text))}


COLOURS = table("""
slate blue | Slate blue is the shade of wet roof tiles, quiet enough to go with almost anything.
forest green | The forest green is deep and a little dark, like pines after rain.
brick red | Brick red is warm without being loud, and it hides the marks of daily life.
cream | Cream is a soft off-white that looks clean in any room and in any light.
charcoal | Charcoal is a dark gray, close to black, that never seems out of place.
mustard yellow | Mustard yellow brings a little sun into the house on gray mornings.
dusty rose | Dusty rose is a faded pink, more old garden than candy shop.
navy | Navy is the color of good school coats: sober, strong and always in style.
sand | Sand is a pale, dry beige that makes every other color look better.
plum | Plum is a dark violet that looks almost brown by lamplight.
sky blue | Sky blue is light and cheerful, the color of a clear morning in May.
black | Plain black, because some things do not need to be noticed to be used.
""")

KINDS = {
    "mug": {
        "family": "kitchen",
        "np": "{material} mug",
        "noun": "mug",
        "materials": table("""
stoneware | Stoneware holds its heat well and goes safely into the dishwasher and the microwave.
porcelain | The porcelain is thin and white inside, and it should be washed by hand if it has a gold rim.
enamel | The enamel coating will not rust unless it is chipped, but keep it out of the microwave.
"""),
        "sizes": table("""
8 oz | At 8 oz it is the right measure for a strong coffee and no more.
12 oz | At 12 oz it takes a full cup with room left for milk.
16 oz | At 16 oz it will keep a slow drinker going for most of the morning.
"""),
        "uses": table("""
camping | It sits flat on a stump or a stone and is light enough to hang from a pack by the handle.
the office | It is low enough to fit under the spout of most office coffee machines.
everyday tea | The rim is thin and turned slightly out, which tea drinkers will notice at the first sip.
soup | The handle is wide enough for a cold hand, so it does just as well for soup.
"""),
        "facts": lines("""
The handle is large enough for three fingers and stays cool.
The base is left unglazed so that it does not slide on a wet table.
Every one is dipped and turned by hand, so no two look quite alike.
It stacks neatly with others of the same size.
"""),
        "refill": "Spare lid for one {size} mug.",
    },
    "kettle": {
        "family": "kitchen",
        "np": "{material} kettle",
        "noun": "kettle",
        "materials": table("""
stainless steel | Stainless steel does not stain or taste, and a spoon of vinegar will clear any scale.
copper | The copper body heats quickly and can be polished with half a lemon and a little salt.
cast iron | Cast iron stays hot for an hour, but it must be dried well so that it does not rust.
"""),
        "sizes": table("""
1 liter | One liter is enough for four cups of tea.
1.5 liter | A liter and a half fills a large pot with a cup to spare.
2 liter | Two liters will serve a whole table without a second boil.
"""),
        "uses": table("""
gas stoves | The flat base spreads the flame evenly and is meant for gas.
pour-over coffee | The narrow spout pours slowly and exactly where you point it.
everyday tea | The whistle is clear but not shrill, and it can be lifted out when the baby is asleep.
wood stoves | The thick base can sit on a wood stove all day without warping.
"""),
        "facts": lines("""
The lid locks with a quarter turn, so it stays on when you pour.
The grip is set back from the steam and never gets too hot to hold.
Water boils in a little under six minutes.
The wide mouth makes filling and cleaning easy.
"""),
        "refill": "Replacement whistle for the {size} kettle.",
    },
    "pan": {
        "family": "kitchen",
        "np": "{material} frying pan",
        "noun": "pan",
        "materials": table("""
cast iron | Rub the iron with a little oil after each use and it will outlive its owner.
carbon steel | Carbon steel darkens with use, and the darker it gets the less it sticks.
aluminum | The aluminum core is light and quick to heat, and the coating needs only a soft sponge.
"""),
        "sizes": table("""
8 inch | Eight inches is just right for two eggs.
10 inch | Ten inches will hold four chops side by side.
12 inch | Twelve inches of flat cooking space will feed a family of five.
"""),
        "uses": table("""
searing | It gets very hot and stays that way, which is what a steak wants.
eggs | The sloping sides let an omelet slide out in one piece.
induction | The base is magnetic and sits flat, so it works on induction as well as on gas.
campfires | The long handle keeps your hand well away from the coals.
"""),
        "facts": lines("""
A hole at the end of the handle lets you hang it from a hook.
Small lips on both sides pour off the fat without a drip.
The handle is held by three rivets and will not work loose.
It goes from the stove to the oven without complaint.
"""),
        "refill": "Silicone handle cover for the {size} pan.",
    },
    "bowl": {
        "family": "kitchen",
        "np": "{material} mixing bowl",
        "noun": "bowl",
        "materials": table("""
stoneware | The stoneware is heavy enough to stay put while you stir, and it is safe in the dishwasher.
glass | The glass is clear, thick and tempered, and does not take on the smell of onions.
stainless steel | Stainless steel chills fast in the refrigerator, which helps when you whip cream.
"""),
        "sizes": table("""
2 quart | Two quarts will do for a vinaigrette or a batch of pancakes.
4 quart | Four quarts is the size most cooks reach for first.
6 quart | Six quarts leaves room for a double batch of dough to rise.
"""),
        "uses": table("""
baking | The tall sides keep the flour in the bowl and off the counter.
salads | It is handsome enough to go straight to the table with a salad in it.
bread dough | The rounded bottom lets the dough come away clean in one piece.
everyday cooking | It is the bowl that will spend more time on the counter than in the cupboard.
"""),
        "facts": lines("""
A spout on one side makes pouring simple.
The rim is rolled so that you can hold it with one hand.
A ring on the base keeps it from turning as you beat.
It nests inside the next size up to save space.
"""),
        "refill": "Fitted lid for the {size} bowl.",
    },
    "knife": {
        "family": "cutlery",
        "np": "{material} chef's knife",
        "noun": "knife",
        "materials": table("""
carbon steel | Carbon steel takes the keenest edge of all but must be wiped dry after every use.
stainless steel | The stainless blade shrugs off lemon and tomato, and a few strokes on a stone restore the
    edge.
damascus steel | The folded steel shows a pattern like water, and it should never see the inside of a
    dishwasher.
"""),
        "sizes": table("""
6 inch | The six inch blade suits small hands and small kitchens.
8 inch | Eight inches is the length most cooks learn on and never give up.
10 inch | The ten inch blade makes short work of melons and cabbages.
"""),
        "uses": table("""
vegetables | The edge is nearly straight, for clean chopping without rocking.
meat | The heel is thick and strong enough to go through a chicken joint.
left-handed cooks | The edge is ground the other way round, so that slices fall away from a left hand.
the professional kitchen | It is balanced for people who hold one for eight hours a day.
"""),
        "facts": lines("""
The tang runs the full length of the handle.
The spine is rounded so that it does not dig into your finger.
Each blade is ground and finished by one person, whose initials are on the box.
The weight sits just in front of the fingers, where it belongs.
"""),
        "refill": "Card sheath for a {size} blade.",
    },
    "board": {
        "family": "cutlery",
        "np": "{material} cutting board",
        "noun": "board",
        "materials": table("""
maple | Maple is hard enough to last and soft enough to be kind to knives; oil it once a month.
walnut | Walnut is dark and close-grained, and a little mineral oil brings the color back.
bamboo | Bamboo dries quickly and does not hold smells, but do not leave it standing in water.
"""),
        "sizes": table("""
10 inch | Ten inches is enough for a lemon, some herbs and a bit of cheese.
14 inch | Fourteen inches gives you room to push things to one side.
18 inch | At eighteen inches it will take a whole roast.
"""),
        "uses": table("""
bread | The crumb grid lifts out and can be emptied for the birds.
cheese | One edge is left with its bark line, so it looks well on the table with cheese.
carving | A deep groove runs round the edge and catches the juices.
everyday cooking | Both sides can be used, one for onions and one for everything else.
"""),
        "facts": lines("""
Rubber feet keep it from slipping.
The wood comes from forests that are replanted every year.
Hand holds are cut into both ends.
The blocks are glued with the end grain up, which hides the marks of the knife.
"""),
        "refill": "Bottle of board oil for one {size} board.",
    },
    "backpack": {
        "family": "bags",
        "np": "{material} backpack",
        "noun": "backpack",
        "materials": table("""
waxed canvas | Waxed canvas keeps out the rain and can be waxed again when it begins to fade.
recycled nylon | The nylon is spun from old fishing nets and wipes clean with a damp cloth.
leather | The leather will darken where you touch it, and wants a little balm twice a year.
"""),
        "sizes": table("""
18 liter | Eighteen liters will hold a lunch, a book and a sweater.
25 liter | Twenty-five liters is a full day's worth of things.
40 liter | Forty liters is as much as most airlines will let you carry on.
"""),
        "uses": table("""
school | There is a padded sleeve for a laptop and a flat pocket for papers that must not be folded.
hiking | The hip belt takes the weight off your shoulders on a long climb.
commuting | A strap at the back slides over the handle of a suitcase or hooks to a bicycle rack.
travel | It opens flat like a suitcase, so you can find the socks at the bottom.
"""),
        "facts": lines("""
The zippers are covered and run smoothly with one hand.
A hidden pocket against your back is just large enough for a passport.
The shoulder straps are curved and thickly padded.
Two bottle pockets stretch to hold a large flask.
"""),
        "refill": "Replacement buckle for the {size} backpack.",
    },
    "tote": {
        "family": "bags",
        "np": "{material} tote bag",
        "noun": "bag",
        "materials": table("""
cotton canvas | The cotton canvas can be machine washed in cold water and ironed while damp.
leather | The leather is left plain, so every scratch becomes part of its story.
jute | The jute is rough, strong and entirely compostable; spot clean only.
"""),
        "sizes": table("""
12 inch | Twelve inches wide, it carries lunch and a paperback.
15 inch | At fifteen inches it swallows a laptop or a week's mail.
20 inch | Twenty inches across, it will bring home the groceries for two.
"""),
        "uses": table("""
the beach | A stiff base keeps the sand out and lets it stand up by itself.
shopping | The long handles go easily over a winter coat.
the office | A divider keeps the papers apart from the shoes.
books | The seams are sewn twice, because books are heavier than they look.
"""),
        "facts": lines("""
A loop inside holds your keys where you can find them.
It folds down to the size of a sandwich.
The handles are stitched in a cross and will not tear away.
A snap at the top keeps it closed on the bus.
"""),
        "refill": "Pair of spare handles for the {size} tote.",
    },
    "duffel": {
        "family": "bags",
        "np": "{material} duffel bag",
        "noun": "duffel",
        "materials": table("""
waxed canvas | The waxed canvas sheds water, and small cuts close up again when you rub them with a thumb.
ripstop nylon | Ripstop nylon is thin but very hard to tear, and it dries in an hour.
leather | Fill the leather bag with newspaper between trips and it will keep its shape.
"""),
        "sizes": table("""
30 liter | Thirty liters is made for one night away.
45 liter | Forty-five liters will do for a long weekend.
70 liter | With seventy liters you can pack for two people.
"""),
        "uses": table("""
the gym | A vented pocket at one end keeps wet things away from dry ones.
weekends | It is soft enough to be pushed under any seat.
sports teams | A clear window holds the name of the player.
sailing | There is no metal on it anywhere, so there is nothing to rust.
"""),
        "facts": lines("""
The strap unclips and packs away inside.
The opening is shaped like a U so that nothing hides in the corners.
Short handles at both ends help you pull it out of a luggage rack.
The base is doubled and can be set down on wet ground.
"""),
        "refill": "Spare shoulder strap for the {size} duffel.",
    },
    "lamp": {
        "family": "home",
        "np": "{material} table lamp",
        "noun": "lamp",
        "materials": table("""
brass | The brass is not lacquered and will slowly turn the color of honey.
oak | The oak base is sanded smooth and rubbed with wax; dust it with a dry cloth.
ceramic | The ceramic base is glazed by hand and needs no more than a feather duster.
"""),
        "sizes": table("""
12 inch | Twelve inches high, it is small enough for a shelf.
18 inch | Eighteen inches is the right height beside an armchair.
24 inch | At twenty-four inches it throws a wide circle on a large desk.
"""),
        "uses": table("""
reading | The head tilts so that the light falls on the page and not in your eyes.
the bedroom | A dimmer in the cord lets you turn it down without getting up.
the desk | The base is heavy and takes up no more room than a saucer.
the nursery | The lowest setting is just bright enough to find a blanket.
"""),
        "facts": lines("""
The cord is covered with woven cotton and is six feet long.
It takes an ordinary bulb, which is not included.
The linen shade softens the light.
The switch is on the neck, where you would look for it.
"""),
        "refill": "Linen shade for the {size} lamp.",
    },
    "blanket": {
        "family": "home",
        "np": "{material} throw blanket",
        "noun": "blanket",
        "materials": table("""
wool | The wool should be aired rather than washed, and kept with cedar in the summer.
cotton | The cotton gets softer every time you wash it; tumble dry low.
alpaca | Alpaca is warmer than wool and does not scratch; wash it cold, by hand, and dry it flat.
"""),
        "sizes": table("""
50 x 60 inch | It is large enough to cover one person from chin to toes.
60 x 80 inch | It will cover the end of a double bed or two people on a sofa.
90 x 90 inch | It is big enough for a queen bed with some left over to tuck in.
"""),
        "uses": table("""
the sofa | It is thick enough for winter evenings and light enough for a nap in June.
picnics | The back is tightly woven and keeps out the damp.
babies | The edges are bound in satin, which small fingers like to hold.
travel | It rolls up small and comes with a strap.
"""),
        "facts": lines("""
The ends are finished with a knotted fringe.
The pattern is woven in, not printed, so it is the same on both sides.
It is washed twice at the mill and will not shrink.
It weighs less than you would expect from something so warm.
"""),
        "refill": "Cedar ring for storing one {size} blanket.",
    },
    "towel": {
        "family": "home",
        "np": "{material} bath towel",
        "noun": "towel",
        "materials": table("""
cotton | Wash the cotton once before you use it, and leave out the fabric softener.
linen | The linen dries you quickly and itself more quickly still; no ironing is needed.
bamboo | The bamboo yarn is silky and does not smell when damp; wash at 40 degrees.
"""),
        "sizes": table("""
27 x 54 inch | This is the usual size for the bath.
30 x 60 inch | The extra inches are enough to wrap a grown person.
40 x 70 inch | This is a bath sheet, for those who like to be wrapped twice.
"""),
        "uses": table("""
the bathroom | A loop at each end means it will never be on the floor.
the beach | Sand falls out of the weave with one good shake.
the gym | It takes up half the room of an ordinary one in your bag.
guests | A narrow band of herringbone makes it smart enough for visitors.
"""),
        "facts": lines("""
The hems are double stitched.
The loops are long and thick and drink up water.
The yarn is dyed before weaving, so it keeps its color.
It dries on the rail overnight.
"""),
        "refill": "Matching washcloth for the {size} towel.",
    },
    "pillow": {
        "family": "home",
        "np": "{material} pillow",
        "noun": "pillow",
        "materials": table("""
down | Down should be shaken every morning and dry cleaned once a year.
buckwheat | The buckwheat hulls can be poured out and put in the sun while you wash the cover.
latex | Latex springs back at once and does not need to be turned or beaten.
"""),
        "sizes": table("""
standard size | It fits any standard pillowcase.
queen size | The queen size gives restless people room to turn.
king size | King size means it reaches across half of a very large bed.
"""),
        "uses": table("""
side sleepers | It is high and firm enough to fill the space between ear and shoulder.
back sleepers | The middle is a little lower, so the neck is held and the head is not pushed up.
travel | It squeezes into its own bag, no bigger than a loaf of bread.
children | It is thinner than usual, as small necks require.
"""),
        "facts": lines("""
The cover closes with a hidden zipper.
It keeps its shape through the night.
The seams are piped to keep the filling in.
It is made without glue or foam.
"""),
        "refill": "Zipped cover for one {size} pillow.",
    },
    "notebook": {
        "family": "paper",
        "np": "{material} notebook",
        "noun": "notebook",
        "materials": table("""
leather | The leather cover will soften in your pocket and can be filled again and again.
linen | The linen cover wipes clean and does not curl at the corners.
kraft paper | The kraft paper cover is made from old boxes and takes stamps and stickers well.
"""),
        "sizes": table("""
A6 | A6 is the size of a postcard and goes into any pocket.
A5 | A5 is half a sheet of letter paper, the size most people write best in.
A4 | A4 gives you a full page for drawings and long lists.
"""),
        "uses": table("""
travel | There is a page for addresses and a pocket at the back for tickets.
sketching | The paper is heavy enough for a light wash of ink.
meetings | Every page has a margin for names and a box for what must be done.
recipes | The index at the front has a line for every dish.
"""),
        "facts": lines("""
The binding is sewn, so it lies flat at any page.
The paper is smooth and ink does not come through.
A ribbon marks the place.
The pages are numbered and the last ten tear out.
"""),
        "refill": "Refill paper, {size}, one pad.",
    },
    "pen": {
        "family": "paper",
        "np": "{material} fountain pen",
        "noun": "pen",
        "materials": table("""
brass | The brass is heavy in the hand and will take on a dull glow with time.
resin | The resin is turned from one solid rod and polished; keep it away from spirits.
olive wood | No two pieces of olive wood are alike; a drop of oil now and then is enough.
"""),
        "sizes": table("""
fine nib | The fine nib is best for small writing and thin paper.
medium nib | The medium nib suits most hands.
broad nib | The broad nib lays down a wet line that is made for signatures.
"""),
        "uses": table("""
students | It is hard to break and cheap to fill.
letter writing | It starts at once, even after a week in the drawer.
calligraphy | The tip is cut square so that the strokes swell and thin.
left-handed writers | The grip is round and the ink dries quickly, so nothing smears.
"""),
        "facts": lines("""
The cap screws on and posts firmly on the back.
It takes cartridges or the converter in the box.
The nib is tested by hand before it leaves the workshop.
The clip is strong and can be taken off.
"""),
        "refill": "Ink cartridges, {size}, six to a box.",
    },
    "pencils": {
        "family": "paper",
        "np": "{material} pencils",
        "unit": "box of",
        "noun": "pencils",
        "materials": table("""
cedar | Cedar sharpens to a long clean point and smells good while you do it.
basswood | Basswood is light and pale and does not splinter.
recycled paper | The rolled paper casing sharpens like wood and saves a tree.
"""),
        "sizes": table("""
6 count | Six is enough for one pencil case.
12 count | A dozen will see you through a school year.
36 count | Thirty-six are enough to share with a class.
"""),
        "uses": table("""
drawing | The leads run from hard to very soft.
school | They are three-sided, so they sit well in a small hand and do not roll away.
carpenters | The flat lead marks rough boards and does not snap.
coloring | The colors are strong and can be blended with a wet brush.
"""),
        "facts": lines("""
The leads are bonded to the casing and seldom break.
The ends are dipped so that you can tell them apart.
They come sharpened.
The tin has a hinged lid and can be used again.
"""),
        "refill": "Pencil sharpener with spare blade.",
    },
    "train": {
        "family": "toys",
        "np": "{material} train set",
        "noun": "train set",
        "materials": table("""
beech | The beech is smooth and strong; wipe it with a damp cloth and do not soak it.
maple | The maple pieces are sanded three times and finished with beeswax.
rubberwood | Rubberwood comes from old latex trees, and the paint is made with water.
"""),
        "sizes": table("""
20 piece | Twenty pieces make one good circle with a bridge.
40 piece | Forty pieces are enough for a figure eight and a station.
80 piece | With eighty pieces the line will reach from the sofa to the kitchen.
"""),
        "uses": table("""
toddlers | The cars join with magnets that even a two-year-old can manage.
ages 4 and up | There are points and a crossing for those who like to plan.
classrooms | It comes in a crate with a picture list so that everything can be put back.
rainy days | It takes an hour to build and an afternoon to play.
"""),
        "facts": lines("""
The track fits the other wooden railways you may have at home.
A little crane lifts the logs on and off.
The engine has no battery and runs on imagination.
Two signals, four trees and a station master are included.
"""),
        "refill": "Two extra pieces of curved track.",
    },
    "puzzle": {
        "family": "toys",
        "np": "{material} jigsaw puzzle",
        "noun": "puzzle",
        "materials": table("""
cardboard | The cardboard is thick and does not bend when you lift it.
plywood | The plywood pieces are cut with a laser and smell faintly of smoke at first.
cork | The cork backing grips the table and makes no noise at all.
"""),
        "sizes": table("""
100 piece | A hundred pieces will fill a quiet hour.
500 piece | Five hundred pieces is about one long evening's work.
1000 piece | A thousand pieces will keep the dining table busy for a week.
"""),
        "uses": table("""
families | There are large pieces on one side and small ones on the other, so all ages can help.
grandparents | The pieces are a little bigger than usual and easy to see.
rainy days | The picture is a busy harbor with a joke in every corner.
experts | There is no picture on the box, and no straight edge either.
"""),
        "facts": lines("""
Every piece has a different shape.
The finish is matt, so the lamp does not shine back at you.
A cloth bag is included for the pieces.
The picture was painted for this puzzle and appears nowhere else.
"""),
        "refill": "Glue sheet for one {size} puzzle.",
    },
    "blocks": {
        "family": "toys",
        "np": "{material} building blocks",
        "unit": "set of",
        "noun": "blocks",
        "materials": table("""
beech | The beech blocks are heavy enough to stand and are finished with plain oil.
maple | The maple is hard and square and will survive several childhoods.
cork | Cork blocks are light and quiet and do no harm when a tower comes down.
"""),
        "sizes": table("""
25 piece | Twenty-five pieces make a house and a gate.
50 piece | Fifty pieces make a castle.
100 piece | With a hundred pieces you can build a small town.
"""),
        "uses": table("""
toddlers | The corners are rounded and nothing is small enough to swallow.
classrooms | The set is sorted by shape, with a chart for the wall.
ages 4 and up | Arches, wedges and columns allow for real architecture.
counting | Numbers are stamped on one side and dots on the other.
"""),
        "facts": lines("""
The wagon they come in has a rope to pull.
All lengths are multiples of the smallest block.
They are colored with plant dyes.
The set includes four long planks for roofs and roads.
"""),
        "refill": "Cotton storage bag for {size} sets.",
    },
    "headphones": {
        "family": "audio",
        "np": "{material} headphones",
        "unit": "pair of",
        "noun": "headphones",
        "materials": table("""
wireless | One charge lasts thirty hours, and ten minutes on the cable give you four more.
wired | The cable is braided, does not tangle and can be replaced if it wears out.
noise-cancelling | Four microphones listen to the room and take the noise away.
"""),
        "sizes": table("""
over-ear | The over-ear cups close around the ear and do not press on it.
on-ear | The on-ear pads are small and cool in summer.
in-ear | The in-ear tips come in four sizes so that one will fit.
"""),
        "uses": table("""
travel | They fold flat into a hard case with a plug for airplanes.
running | A soft hook keeps them in place, and sweat does not harm them.
the studio | The sound is even from top to bottom, with nothing added to please.
children | The volume stops at 85 decibels, whatever the child may think.
"""),
        "facts": lines("""
The pads can be taken off and washed.
You can walk to the next room without losing the signal or the tune.
A small dial on the side sets the volume.
The microphone makes your voice clear on calls.
"""),
        "refill": "Replacement cushions for {size} headphones, one pair.",
    },
    "speaker": {
        "family": "audio",
        "np": "{material} portable speaker",
        "noun": "speaker",
        "materials": table("""
walnut | The walnut case gives it a warm voice and should be dusted with a dry cloth.
aluminum | The aluminum shell is cut from one block and survives a fall from a table.
fabric-covered | The fabric cover zips off and can be washed at 30 degrees.
"""),
        "sizes": table("""
5 watt | Five watts is plenty for a bathroom or a tent.
10 watt | Ten watts will fill a kitchen over the noise of frying.
30 watt | Thirty watts is loud enough for a party in the yard.
"""),
        "uses": table("""
the kitchen | Splashes run off it and it stands firm on a wet counter.
the beach | Sand and salt water do it no harm, and it floats.
parties | Two of them can be joined to play in stereo.
the workshop | It has a thick rubber ring and can be heard over a saw.
"""),
        "facts": lines("""
It plays for twelve hours on one charge.
The three buttons are large enough to find in the dark.
A leather loop lets you hang it from a branch.
It remembers the last four phones it met.
"""),
        "refill": "Charging cable for the {size} speaker.",
    },
    "trowel": {
        "family": "garden",
        "np": "{material} hand trowel",
        "noun": "trowel",
        "materials": table("""
stainless steel | The stainless steel blade slips through wet clay and rinses clean.
forged steel | The forged steel wants a wipe of oil before it goes away for the winter.
copper | Copper never rusts, and some gardeners swear that slugs dislike it.
"""),
        "sizes": table("""
10 inch | At ten inches it is made for pots and window boxes.
12 inch | Twelve inches is the usual length for beds and borders.
15 inch | The fifteen inch handle saves a sore back.
"""),
        "uses": table("""
bulbs | Marks on the blade show how deep you have gone.
weeding | The point is narrow and gets under roots without disturbing the neighbors.
transplanting | The wide scoop lifts a seedling with all its soil.
heavy clay | The neck is thick and does not bend, however hard you lean on it.
"""),
        "facts": lines("""
The ash handle is turned to fit the palm.
A leather thong lets you hang it up.
The blade and neck are one piece.
One edge is toothed for cutting roots and string.
"""),
        "refill": "Leather thong for the {size} trowel.",
    },
    "shears": {
        "family": "garden",
        "np": "{material} pruning shears",
        "unit": "pair of",
        "noun": "shears",
        "materials": table("""
carbon steel | The carbon steel blades stay sharp for seasons and can be reground at home.
stainless steel | Stainless blades do not mind sap or rain; rinse and dry them.
titanium-coated | The titanium coating keeps sap from sticking.
"""),
        "sizes": table("""
6 inch | Six inches is right for roses and herbs.
8 inch | Eight inches cuts stems as thick as a finger.
10 inch | Ten inches is strong enough for fruit trees.
"""),
        "uses": table("""
roses | The narrow points reach in among the thorns.
fruit trees | The curved blade holds a branch while it cuts.
small hands | The handles open less widely, and the spring is light.
left-handed gardeners | The catch and the blade are on the other side.
"""),
        "facts": lines("""
Every part can be bought and replaced.
The catch works with one thumb.
The grips are covered with cork that is never cold.
A groove carries the sap away.
"""),
        "refill": "Replacement spring for {size} shears.",
    },
    "can": {
        "family": "garden",
        "np": "{material} watering can",
        "noun": "can",
        "materials": table("""
galvanized steel | Galvanized steel can stand out in all weathers; empty it before a frost.
copper | The copper will turn green in a few years unless you polish it, and it should be allowed to.
recycled plastic | The recycled plastic does not crack in the cold and weighs almost nothing.
"""),
        "sizes": table("""
1 liter | One liter is enough for the plants on one window sill.
5 liter | Five liters is what most people can carry without leaning.
9 liter | Nine liters waters a long row of beans.
"""),
        "uses": table("""
house plants | The long thin spout reaches under the leaves and does not drip.
seedlings | The rose points upward, so the water falls like soft rain.
balconies | It is flat on one side and stands against the wall.
the greenhouse | The neck is long enough to reach the back of the bench.
"""),
        "facts": lines("""
The rose unscrews for cleaning.
It balances as well full as empty.
A brace between neck and body makes it very strong.
The opening is half covered so that it does not slop.
"""),
        "refill": "Brass rose for the {size} can.",
    },
    "boots": {
        "family": "wear",
        "np": "{material} hiking boots",
        "unit": "pair of",
        "noun": "boots",
        "materials": table("""
leather | Brush the leather when it is dry and grease it before the first snow.
suede | The suede is treated against water but should be kept out of deep mud.
nubuck | Clean the nubuck with a stiff brush and never dry it by a fire.
"""),
        "sizes": table("""
size 8 | Size 8 runs true, with room for a thick sock.
size 10 | Size 10 runs a little wide, as most walkers prefer.
size 12 | Size 12 is built on its own last and not just made longer.
"""),
        "uses": table("""
winter | A layer of felt keeps your feet warm well below freezing.
rocky trails | A hard rim protects the toes from stones.
wide feet | The toe box is broad and does not pinch going downhill.
long distances | They are soft from the first day and ask for no breaking in.
"""),
        "facts": lines("""
The soles can be replaced when they wear down.
The tongue is sewn in on both sides to keep out grit.
Six hooks let you lace them quickly with cold fingers.
They grip wet rock as well as grass.
"""),
        "refill": "Waxed laces, one pair, for {size}.",
    },
    "jacket": {
        "family": "wear",
        "np": "{material} rain jacket",
        "noun": "jacket",
        "materials": table("""
waxed cotton | The waxed cotton should be sponged with cold water and waxed again each fall.
recycled nylon | The recycled nylon can be machine washed, and a warm dryer brings back the water beading.
oilskin | Oilskin is stiff at first and smells of ships; hang it up wet and it will dry by morning.
"""),
        "sizes": table("""
small | Small fits a chest of 36 inches.
medium | Medium fits a chest of 40 inches.
large | Large fits a chest of 44 inches.
"""),
        "uses": table("""
cycling | The back is cut long, and a bright strip can be turned out at night.
sailing | The cuffs close twice and the collar comes up to the ears.
hiking | There are zippers under the arms for steep climbs.
the city | It is smart enough to be worn over a suit.
"""),
        "facts": lines("""
The seams are taped from inside.
The hood rolls away into the collar.
The pockets are lined with fleece.
It packs into its own pocket.
"""),
        "refill": "Tin of proofing wax for one {size} jacket.",
    },
    "socks": {
        "family": "wear",
        "np": "{material} socks",
        "unit": "pair of",
        "noun": "socks",
        "materials": table("""
merino | The merino does not smell, even on the third day; wash it cool and dry it flat.
alpaca | Alpaca is soft and very warm and should be washed by hand.
cotton | The cotton can be washed hot and tumbled dry.
"""),
        "sizes": table("""
small | Small fits shoe sizes 5 to 7.
medium | Medium fits shoe sizes 8 to 10.
large | Large fits shoe sizes 11 to 13.
"""),
        "uses": table("""
hiking | The heel and toe are padded where boots rub.
the office | They are thin enough for good shoes and stay up all day.
winter | They come up to the knee and are as thick as a blanket.
sleeping | The top is loose and leaves no mark.
"""),
        "facts": lines("""
The toe is closed by hand, so there is no seam to feel.
They are knitted on old machines that make a denser fabric.
They are sold with a card of matching thread for darning.
They do not slip down.
"""),
        "refill": "Card of darning thread.",
    },
    "strings": {
        "family": "music",
        "np": "{material} guitar strings",
        "unit": "set of",
        "noun": "strings",
        "materials": table("""
phosphor bronze | Phosphor bronze is warm and bright, and it lasts longer if you wipe the strings after
    playing.
nickel | The nickel winding is smooth under the fingers and gives a rounded, older sound.
nylon | Nylon takes a few days to settle, so tune it often at first.
"""),
        "sizes": table("""
extra light gauge | Extra light gauge is the easiest on new fingers.
light gauge | Light gauge is what most players use on most guitars.
medium gauge | Medium gauge is louder and asks for a stronger hand.
"""),
        "uses": table("""
fingerstyle | The trebles are wound a little thinner, so that each note stands apart.
beginners | The ends are colored, so each string is easy to find.
slide | The tension is high enough to keep the slide off the frets.
recording | They squeak much less than most when the hand moves.
"""),
        "facts": lines("""
Each set is sealed in an airtight pouch.
The ball ends are locked with a double twist.
A spare first string is in the packet, since that is the one that goes.
The core is six-sided, which keeps the winding from slipping.
"""),
        "refill": "Single first string, {size}.",
    },
    "capo": {
        "family": "music",
        "np": "{material} guitar capo",
        "noun": "capo",
        "materials": table("""
aluminum | The aluminum body weighs less than an ounce and does not mark the neck.
steel | The steel bar is plated, and the rubber pad can be changed.
rosewood | The rosewood bar is padded with cork and needs no care at all.
"""),
        "sizes": table("""
six-string | It presses all six strings with the same force.
twelve-string | The pad is softer, so that the paired strings stay in tune.
ukulele | It is cut short for the narrow neck of a ukulele.
"""),
        "uses": table("""
stage use | One squeeze moves it, even in the middle of a song.
beginners | An arrow shows which way round it goes.
curved necks | The bar is arched to match a curved fingerboard.
travel | It clips to the headstock or to a key ring.
"""),
        "facts": lines("""
A screw sets the pressure, so nothing goes sharp.
It can be put on with one hand.
There is a slot in the handle for a pick.
It does not rattle when it is not in use.
"""),
        "refill": "Rubber pad for one {size} capo.",
    },
}

# A brand's `plan` orders the sentences of its descriptions: `open`, `close`, `pledge` and `story` are its own
# words, `fact` is one of the kind's facts drawn at random, the others follow from the words of the title.
BRANDS = {
    "Harrow Hill": {
        "family": "kitchen",
        "title": "{brand} {Size} {Np} for {Use}, {Colour}",
        "open": "A sturdy {np} in {colour}, made to be used every day and passed on afterwards.",
        "plan": "open size care use fact close pledge",
        "close": ("Harrow Hill has worked in the same valley since 1871, with the same clay and the same river."),
        "pledge": "If it breaks within five years, send us the pieces and we will send you a new one.",
        "weight": 3,
    },
    "Copperfinch": {
        "family": "kitchen",
        "title": "{brand} {Np} ({Colour}, {Size})",
        "open": "{size} {np}, new in box.",
        "plan": "open care",
        "close": "Copperfinch makes plain things for plain kitchens.",
        "pledge": "Returns are accepted within thirty days.",
        "weight": 2,
    },
    "Tamsin & Rook": {
        "family": "kitchen",
        "title": "Tamsin & Rook Heritage {Np}, {Size}, {Colour}, for {Use}",
        "open": (
            "Handsome enough for Sunday and tough enough for Monday, this {size} {np} is the heart of our "
            "Heritage line."
        ),
        "plan": "open colour fact care use size praise story more close pledge",
        "close": "Tamsin & Rook is a family firm, and a member of the family packs every box.",
        "pledge": "Guaranteed for life against everything but carelessness.",
        "story": (
            "Tamsin Averill and her brother-in-law Josiah Rook opened their first shop in 1923 with a "
            "handcart, eleven teapots and a borrowed sign. The handcart is still in the window. Three "
            "generations later we have not changed much: we buy from makers we know by name, we test "
            "every new piece in our own kitchen for a year, and we still say no to anything that will not "
            "last as long as the person who buys it. The Heritage line began as a wedding list for "
            "Tamsin's daughter. Friends asked for the same, and then their friends, and before long there "
            "was a printed list with a drawing beside every line. Today it runs to sixty pieces, all of "
            "them made in small workshops within a day's drive of the shop."
        ),
        "more": (
            "Every piece in the line carries a number and a small rook stamped on the underside, and with "
            "the number you can ask us who made it, in which week, and what else came out of the workshop "
            "that day. Many customers do, and some have written to the maker and been answered. We print "
            "a short history with each order, together with a card that tells you how to care for what "
            "you have bought, what not to do with it, and whom to call when you have done it anyway. If "
            "you are buying for a wedding, let us know the date. We will hold the parcel, add a ribbon in "
            "the colors of the house, and send it so that it arrives on the morning before and not the "
            "week after."
        ),
        "weight": 2,
    },
    "Brannock Forge": {
        "family": "cutlery",
        "title": "{brand} {Size} {Np} for {Use}",
        "open": "This {size} {np} was drawn up by cooks and made by smiths.",
        "plan": "open fact size care use close pledge",
        "close": "Brannock Forge has eleven people, two hammers and no shareholders.",
        "pledge": "We sharpen what we sell, free of charge, for as long as you own it.",
        "weight": 2,
    },
    "Nokuri": {
        "family": "cutlery",
        "title": "Nokuri Kitchen {Np}, {Size}",
        "open": "Simple {np} by Nokuri Kitchen.",
        "plan": "open",
        "close": "Nokuri means to go slowly, and we do.",
        "pledge": "One year limited warranty.",
        "weight": 1,
    },
    "Oxbow & Daughters": {
        "family": "cutlery",
        "title": "Oxbow & Daughters {Np} for {Use} - {Size} - Gift Boxed",
        "open": ("From Oxbow & Daughters comes a(n) {np} that feels like an old friend from the first evening."),
        "plan": "open size fact use care praise close pledge",
        "close": "It comes in a pine box with a sliding lid, wrapped in a cloth printed with our fish.",
        "pledge": "If the person you give it to does not like it, we will take it back within a year.",
        "weight": 2,
    },
    "Pinefold": {
        "family": "bags",
        "title": "Pinefold {Size} {Np} for {Use} - {Colour}",
        "open": "Meet the Pinefold {noun}, {size}, in {colour}.",
        "plan": "open use fact care close",
        "close": "For every bag we sell, Pinefold plants one pine above the village where it was sewn.",
        "pledge": "Two year warranty on all seams.",
        "weight": 3,
    },
    "Tidewick": {
        "family": "bags",
        "title": "Tidewick {Np} - {Size} - for {Use}",
        "open": ("The sea taught us to make bags: keep the water out, keep the weight low, and leave nothing loose."),
        "plan": "open care size use fact praise story more close pledge",
        "close": "Tidewick bags are cut and sewn in an old sail loft above the harbor.",
        "pledge": "Repairs are free for ten years, salt or no salt.",
        "story": (
            "Our loft was built for sails. When the last fishing boats were sold, the women who had "
            "stitched canvas there for forty years bought the machines for one dollar and went on "
            "working. Their first {noun} was made from an old mainsail, and you could still read the "
            "number on it. We use new cloth now, but the thread, the needles and the stubborn double seam "
            "are the same. Each maker signs the inside of the pocket. If you ever bring your {noun} home "
            "for repair, it goes back to the hands that made it, and she will probably ask you where it "
            "has been."
        ),
        "more": (
            "Before it leaves the loft each {noun} is filled with stones and hung from a beam for a "
            "night. In the morning we look at the stitches with a lens. If a single one has moved, the "
            "piece goes back to the bench, and we keep a box of those that failed so that apprentices can "
            "learn from them. There are no more than fourteen hundred in a year, because there are only "
            "seven chairs. That means that you may have to wait, in summer for as long as six weeks. We "
            "are sorry about that, and not very sorry. You will be sent a photograph of your {noun} on "
            "the beam, a spare needle, a yard of the thread, and a note on how to use them if you are "
            "ever far from home."
        ),
        "weight": 2,
    },
    "Sacoche Müller": {
        "family": "bags",
        "title": "Sacoche Müller {Np}, {Size}, {Colour}",
        "open": "City {np} by Sacoche Müller in {colour}.",
        "plan": "open size",
        "close": "Designed in a small studio above a bakery.",
        "pledge": "Warranty: two years.",
        "weight": 1,
    },
    "Halloway Loom": {
        "family": "home",
        "title": "Halloway Loom {Np} for {Use}, {Size}, {Colour}",
        "open": "A(n) {np} in {colour} that makes a house feel lived in.",
        "plan": "open fact size use care close",
        "close": "Made by Halloway Loom, where the working day still ends at four.",
        "pledge": "Exchanges within sixty days, no questions asked.",
        "weight": 3,
    },
    "Söderby": {
        "family": "home",
        "title": "Söderby {Np}, {Colour}, {Size}",
        "open": "Plain, honest and well made: the Söderby {noun} does one thing and does it for years.",
        "plan": "open colour care size close",
        "close": "Söderby is an island with forty people, one road and a very good workshop.",
        "pledge": "Söderby goods carry a seven year guarantee.",
        "weight": 2,
    },
    "Marrow Lane": {
        "family": "home",
        "title": "Marrow Lane {Size} {Np} for {Use} ({Colour})",
        "open": "{Np} for {use}.",
        "plan": "open",
        "close": "Marrow Lane, for the rest of the house.",
        "pledge": "All sales are final.",
        "weight": 1,
    },
    "Quillon": {
        "family": "paper",
        "title": "Quillon {Np}, {Size}, {Colour}, for {Use}",
        "open": "Writing by hand is slow, and that is the point of the Quillon {noun}.",
        "plan": "open size care fact use colour close",
        "close": "Quillon is a bindery of nine people who still answer letters.",
        "pledge": "If it fails you, write to us and we will make it good.",
        "weight": 2,
    },
    "Post & Penny": {
        "family": "paper",
        "title": "Post & Penny {Size} {Np} ({Colour})",
        "open": "{size} {np} in {colour} from Post & Penny.",
        "plan": "open fact",
        "close": "Small things for the desk since 1998.",
        "pledge": "Satisfaction guaranteed.",
        "weight": 2,
    },
    "Birchwink": {
        "family": "toys",
        "title": "Birchwink {Size} {Np} for {Use}",
        "open": "Play comes first at Birchwink, and this {size} {np} is ready for plenty of it.",
        "plan": "open use fact care close pledge",
        "close": "Everything is tested in our own nursery school by the hardest judges we know.",
        "pledge": "Lost a piece? Birchwink will post you another for the price of a stamp.",
        "weight": 3,
    },
    "Tumbledown Toys": {
        "family": "toys",
        "title": "Tumbledown Toys Deluxe {Np}, {Size}, for {Use}",
        "open": ("Build it up, knock it down, begin again: that is the whole idea of the Tumbledown Deluxe {noun}."),
        "plan": "open size fact use care praise story more close pledge",
        "close": "Winner of the Golden Spinning Top, an award voted for by grandmothers.",
        "pledge": "Tumbledown Toys are guaranteed until the child goes to college.",
        "story": (
            "The Deluxe edition comes in a wooden chest with rope handles. Inside you will find "
            "everything in the standard box and more: a printed book of twelve things to try, a cloth mat "
            "that rolls up with the pieces inside, a card of stickers, a badge for the builder, and a "
            "letter to the grown-ups about when to help and when to look away. The chest itself can be "
            "stood on, sat on and used as a harbor, a bank or a bed for a very small bear. We have been "
            "asked why we put so much in one box. The answer is that we were children too, and we "
            "remember what it was like when the best part was missing."
        ),
        "more": (
            "Parents often ask how long it will hold a child's attention, and we can only tell you what "
            "we have seen. In our test families the Deluxe {noun} came out on the first day, on most of "
            "the days of the first month, and then every week or so for years, each time for something "
            "new. Grandparents said that it was the first box they were asked for. Teachers liked it "
            "because there is enough for four to share and nothing to quarrel over. It makes no sound, "
            "needs no screen and cannot be won or lost. When your family has outgrown it, send the chest "
            "to us: we will clean it, fill the gaps, and pass it on to a school that asked for one."
        ),
        "weight": 2,
    },
    "Klarvox": {
        "family": "audio",
        "title": "Klarvox {Size} {Np} for {Use}, {Colour}",
        "open": "Clear sound without fuss, that is Klarvox: a(n) {np} in {colour}, tuned by people who play.",
        "plan": "open size care use fact close pledge",
        "close": "In the box: the {noun}, a cloth bag, a short cable and a very short manual.",
        "pledge": "Klarvox gives a three year warranty and keeps spare parts for ten.",
        "weight": 2,
    },
    "Hushline": {
        "family": "audio",
        "title": "Hushline {Np} ({Size}, {Colour}) for {Use}",
        "open": "Hear more and hear it longer with the Hushline {noun}.",
        "plan": "open use care size fact praise close pledge",
        "close": "Hushline began in a garage next to a railway, which is why we care so much about quiet.",
        "pledge": "Try it for 100 days; if you do not like it, post it back at our cost.",
        "weight": 2,
    },
    "Mossgrove": {
        "family": "garden",
        "title": "Mossgrove {Size} {Np} for {Use}",
        "open": (
            "Mossgrove tools are made for people with earth under their nails, and this {size} {np} is no exception."
        ),
        "plan": "open fact care size use close pledge",
        "close": "Used and approved in the walled garden at Mossgrove House.",
        "pledge": "Guaranteed for twenty-five years, which is how long it takes to make a garden.",
        "weight": 2,
    },
    "Thistle & Spade": {
        "family": "garden",
        "title": "Thistle & Spade {Np}, {Size}",
        "open": "{size} {np} for the home gardener.",
        "plan": "open fact close",
        "close": "Thistle & Spade: good tools, fair prices.",
        "pledge": "One year warranty.",
        "weight": 2,
    },
    "Ridgeholt": {
        "family": "wear",
        "title": "Ridgeholt {Np} for {Use}, {Colour}, {Size}",
        "open": (
            "There is no bad weather in Ridgeholt, only the wrong {noun}; these words hang over the door "
            "of our workshop."
        ),
        "plan": "open use care fact size close pledge",
        "close": "Ridgeholt is the highest village in the county and the wettest, so we test where we live.",
        "pledge": "Wear it for a month, and if you are wet or cold you get your money back.",
        "weight": 3,
    },
    "Piñon Trail™": {
        "family": "wear",
        "title": "{brand} {Size} {Np} ({Colour})",
        "open": "A(n) {np} in {colour} from Piñon Trail.",
        "plan": "open fact",
        "close": "Piñon Trail: walk slowly, see more.",
        "pledge": "Ninety day warranty.",
        "weight": 1,
    },
    "Peakfarer": {
        "family": "wear",
        "title": "Peakfarer Expedition {Np}, {Size}, {Colour}, for {Use}",
        "open": (
            "Carried over high passes and back again: the Peakfarer Expedition {noun} came by the name the hard way."
        ),
        "plan": "open colour size use care fact praise story more close pledge",
        "close": "Peakfarer gives one day's earnings in every hundred to mountain rescue.",
        "pledge": "The Peakfarer promise: repaired or replaced, wherever you are.",
        "story": (
            "Before anything carries the Expedition label it spends a winter with the guides of the Upper "
            "Lessing valley. They are not gentle. They sleep in it, fall in it, lend it to their cousins "
            "and leave it out in the snow. In spring they sit down with our designers at a long table and "
            "say what they think, and it is written down without softening. The seams, the pockets and "
            "even the color of the thread in this {noun} were argued about at that table. What you are "
            "holding is the version at which the guides had nothing left to say. They are quiet people, "
            "and from them that counts as praise."
        ),
        "more": (
            "The label inside has room for three names, because we expect this {noun} to be handed down. "
            "Above it is a number. Type it in on our page and you will see where the cloth was woven, who "
            "cut it, which guide tested the first sample and what was changed because of it. You will "
            "also find the repair book, which is free and which shows with drawings how to mend a seam, a "
            "hook or a hole with what is likely to be in your pack. In the box there is a small kit with "
            "thread, wax and two patches. Use it. A thing that has been mended by its owner is not "
            "spoiled; in our valley it is the only kind that anybody trusts on a rope."
        ),
        "weight": 2,
    },
    "Cantarelle": {
        "family": "music",
        "title": "Cantarelle {Np} for {Use}, {Size}",
        "open": "A(n) {np} for {use}, {size}.",
        "plan": "open care use fact close",
        "close": "Cantarelle has one factory, one standard and no second quality.",
        "pledge": "Unopened packs can be returned at any time.",
        "weight": 3,
    },
    "Velloso": {
        "family": "music",
        "title": "Velloso Workshop {Size} {Np}",
        "open": "Made by hand in the Velloso workshop.",
        "plan": "open fact",
        "close": "Four brothers, four benches.",
        "pledge": "No warranty on wearing parts.",
        "weight": 1,
    },
}

# Drawn at random by the plans that ask for `praise`.
PRAISE = lines("""
One customer wrote to say that this was the only purchase of the year that nobody at home argued about.
A reviewer called this the last purchase of its kind that anyone will need to make.
Our own staff buy from this line with their own money, which is the best review we know.
This has been in our list for twelve years and has never once been on sale.
People who buy once tend to come back, usually for a present.
""")

# Materials that are sold as they are; a brand that shows a color in its titles does not use them.
BARE = set(
    lines("""
copper
stainless steel
carbon steel
brass
glass
oak
olive wood
walnut
""")
)

# Books. `slots` are the words of the title, each with the sentence that goes with it; the `houses` of a genre
# are its imprints: `title` shows the imprint, `plan` orders the sentences as for the brands.
PLACES = table("""
Lisbon | Lisbon is a city of steep streets, tiled walls and ferries that cross the wide river at dusk.
Kyoto | In Kyoto the temples keep their silence behind wooden gates while the buses go by outside.
Oaxaca | Oaxaca lies high and dry among its hills, and its markets smell of smoke, chocolate and rain.
Naples | Naples is loud, generous and a little dangerous, and it lives with its windows open.
Istanbul | Istanbul stands on two shores, and everyone who ever ruled it left a wall, a bath or a recipe.
Marrakesh | Marrakesh hides its gardens behind red walls and its best rooms at the end of dark alleys.
Bergen | In Bergen it rains two days out of three, and the wooden houses lean together on the quay.
Zanzibar | Zanzibar grew rich on cloves, and its carved doors still say who was richer than his neighbor.
Prague | Prague has a hundred towers and a river that carries their reflections slowly away.
Havana | Havana faces the sea with peeling columns and music from every second balcony.
Edinburgh | Edinburgh is built on rock and weather, with a castle at one end and a palace at the other.
Jaipur | Jaipur was laid out in a grid of pink streets by a king who loved the stars.
Vermont | Vermont has more cows than cars on some roads, and every hill has its white church.
Sicily | Sicily has been Greek, Arab, Norman and Spanish, and it has forgotten none of it.
""")

HISTORIC = ("Lisbon", "Kyoto", "Naples", "Istanbul", "Marrakesh", "Bergen", "Prague", "Edinburgh")

AUTHORS_FIRST = lines("""
Ada
Bertram
Clementine
Dorothea
Edmund
Florence
Gideon
Harriet
Isidore
Josephine
Lionel
Marguerite
Nathaniel
Octavia
Percival
Rosalind
Silas
Theodora
Winifred
Zoltan
""")

AUTHORS_LAST = lines("""
Thornquist
Abernethy-Cole
Marchbank
Okonedu
Pellworth
Castellane
Drummle
Varga
Hathersage
Lindqvist-Moor
Quarrie
Tolland
Ellingboe
Fairweather
Brandreth
Ashgrove
Montefalco
Skelling
Winterbourne
Yarrow
Aldersey
Bouchier-Lane
Crookshank
Dellafield
Everhard
Folkestad
Garraway
Holloran
Inchbold
Jessamy
Kettleby
Lorimond
Mossman
Nethercott
Osgodby
Pendrake
Ravenhall
Sorrento-Hill
Twelvetrees
Ullathorne
""")

GENRES = {
    "mystery": {
        "weight": 5,
        "slots": {
            "crime": table("""
Murder | It begins with a body and a locked door, and nobody in the house is as sorry as they should be.
Poison | The cup was washed before the police came, which is the first mistake.
A Theft | Nothing was taken but one small thing, and three people would kill to have it back.
A Vanishing | One guest went up to change for dinner and was never seen again.
Blackmail | The letters come on cheap blue paper, and each of them knows a little more.
Silence | Everyone heard the shot, and no one will say so.
"""),
            "venue": table("""
the Old Mill | The mill has not turned for thirty years, but on the night of the storm the wheel is moving.
Gull Island | The island is cut off by fog for a week, with nine people and one boat.
the Opera House | Behind the curtain of the opera house there are more knives than in the play.
Saltmarsh Abbey | The abbey is a school now, and the boys know every passage under it.
the Grand Hotel | The hotel is closing for the winter, and the last guests have no wish to leave.
the Flower Show | The flower show has been won by the same family since the war, and not by growing flowers.
the Night Train | The train stops in the snow between two stations, and the lights go out.
the Clockmaker's | In the clockmaker's shop every clock has been set to the same wrong time.
the Lighthouse | The lamp in the lighthouse burned all night, though the keeper was already dead.
the Auction Rooms | Lot forty is a plain tin box, and it is sold for more than the house.
"""),
            "hero": table("""
Pym | Inspector Pym is shy, fat and never in a hurry, and he forgets nothing.
Castellan | Inspector Castellan would rather be fishing, and says so to every witness.
Ormerod | Inspector Ormerod has one eye, two ex-wives and an excellent memory for shoes.
Valdane | Inspector Valdane plays the cello and listens to a lie as others listen to a wrong note.
Threadgold | Inspector Threadgold is the first woman in her post and means not to be the last.
Bexley | Inspector Bexley has been told to retire and has put the letter in a drawer.
"""),
        },
        "base": "{crime} at {venue_title}",
        "facts": lines("""
Readers will not guess the end, and will be cross that they did not.
The clues are all on the page, for those who care to look.
There is a map of the house at the front and a surprise at the back.
It may be read alone or as part of the series.
"""),
        "houses": [
            {
                "title": "{base} (An Inspector {hero} Mystery)",
                "plan": "crime venue hero fact",
                "weight": 4,
            },
            {
                "title": "{base}: Inspector {hero} Investigates (Greyfriars Crime Classics)",
                "open": ("First printed in 1934 and long out of reach, this is a jewel of the golden age of crime."),
                "plan": "open venue crime hero fact review story more close",
                "story": (
                    "Little is known about the author, who signed every book with the name of a moth and "
                    "was paid in cash by a solicitor in a northern town. Eight novels came out between "
                    "1931 and 1938, and then there was nothing. The publisher's files were burned in the "
                    "war. What remains is the work: dry, fair, beautifully made, with a sense of place "
                    "that makes you turn up your collar. For this edition the text has been set again "
                    "from the first printing, three pages that were cut for the cheap reprint have been "
                    "put back, and the plan of the house has been drawn afresh."
                ),
                "more": (
                    "The introduction, by a retired detective, looks at the methods of the police between "
                    "the wars and finds them better than we think. It explains what could be learned from "
                    "a footprint, a laundry mark or a railway ticket in those days, and why poison was so "
                    "popular with writers and so rare in life. There are notes on the slang, the money "
                    "and the train times, all of which turn out to matter. The reader who likes to play "
                    "fair should stop at the end of chapter nineteen, where every clue has been shown, "
                    "and write down a name. A sealed page at the back gives the solution in a single "
                    "sentence. In our office, where nine people tried, only one was right, and she had "
                    "guessed."
                ),
                "close": (
                    "Greyfriars Crime Classics brings back the best of the forgotten, in small green "
                    "volumes made for the pocket."
                ),
                "weight": 2,
            },
            {
                "title": "{base} (Large Print)",
                "open": "Large print edition.",
                "plan": "open crime",
                "weight": 1,
            },
        ],
    },
    "children": {
        "weight": 6,
        "slots": {
            "animal": table("""
Mouse | Mouse is small and gray and brave only on Tuesdays.
Bear | Bear sleeps too much and is always late for breakfast.
Hedgehog | Hedgehog would like to be hugged, but nobody dares.
Fox | Fox tells such good stories that no one believes the true ones.
Owl | Owl is afraid of the dark and keeps a candle in her tree.
Otter | Otter cannot sit still, not even to be sad.
Goose | Goose has lost her map and will not ask the way.
Badger | Badger counts everything twice and keeps the numbers in a book.
Rabbit | Rabbit has eleven sisters and never a bed to herself.
Donkey | Donkey says no to everything and is sorry afterwards.
"""),
            "thing": table("""
the Moon Boat | When the moon falls into the pond, there is only one way to put it back: build a boat.
the Missing Button | A red button has rolled out of the house, over the bridge and into the wide world.
the Very Loud Night | Something in the attic goes bump, and then bump again, and then it sneezes.
the Snow Parade | The first snow has come, and nobody has remembered to order the drum.
the Lost Kite | The wind takes the kite over the hill, to where the map says only Here Be Geese.
the Birthday Cake | There is a cake with no name on it, and everyone is sure that it is theirs.
the Secret Garden Gate | Behind the ivy is a gate that is exactly as high as a small friend's ears.
the Borrowed Umbrella | An umbrella must be given back, even when it has turned into a house for frogs.
the Big Red Bus | The bus has room for everybody, and that is just the trouble.
the Star Soup | To make star soup you need a pot, a ladder and someone to hold it.
"""),
        },
        "base": "{animal} and {thing}",
        "facts": lines("""
The soft pictures in pencil and paint reward a second look.
Each page has a small yellow bird to find.
The words are few and good to say aloud.
Children will ask for it again, and parents will not mind.
"""),
        "houses": [
            {
                "title": "{base} (A Lantern Picture Book)",
                "plan": "animal thing fact close",
                "close": ("A Lantern Picture Book for ages three to six, to be read by one and listened to by two."),
                "weight": 4,
            },
            {
                "title": "{base} (First Steps in Reading, Level 2)",
                "open": "Short sentences and large letters help new readers along.",
                "plan": "thing open close",
                "close": "Level 2 is for children who know their letters and are ready for whole pages.",
                "weight": 2,
            },
            {
                "title": "{base} [Board Book]",
                "open": "{base}, as a board book with rounded corners.",
                "plan": "open",
                "weight": 1,
            },
        ],
    },
    "cooking": {
        "weight": 5,
        "slots": {
            "food": table("""
Bread | Flour, water, salt and time are all you need for bread, and the book is honest about the time.
Soup | Soup forgives almost everything, and here it is given the respect of a main course.
Rice | Rice is steamed, fried, baked and turned into pudding, and no grain is wasted.
Fish | Fish should be bought in the morning and cooked as little as possible.
Chocolate | Chocolate appears in cakes and creams, but also in stews, where it belongs.
Olive | The olive gives oil, salt and bitterness, and a table without it is only furniture.
Lemon | A lemon in the bowl is a meal half made, as these pages prove.
Pepper | Peppers are roasted, stuffed, dried and ground, from the gentle to the frankly rude.
Cheese | Cheese is grated, melted and eaten by itself, at midnight, standing up.
Bean | Beans are cheap, kind and patient, and they improve overnight.
"""),
            "place": PLACES,
        },
        "base": "The {food} Cookbook: Recipes from {place}",
        "facts": lines("""
All the recipes have been tested in a kitchen with one oven and two children.
Measures are given in cups and in grams.
Most dishes can be on the table in forty minutes.
There are color photographs of every dish and a few of the cooks.
"""),
        "houses": [
            {
                "title": "{base} (Plain Table Series)",
                "open": "One ingredient, sixty recipes and no nonsense.",
                "plan": "open food place fact",
                "weight": 3,
            },
            {
                "title": "{base}, by {author}",
                "open": "{author} learned to cook from two aunts who did not speak to each other.",
                "plan": "place open food fact close",
                "close": "{last} has a light hand with words and a heavy one with salt.",
                "weight": 3,
            },
            {
                "title": "{base} (Spiral-bound)",
                "open": "Spiral-bound edition of the {food} recipes, lies flat.",
                "plan": "open",
                "weight": 1,
            },
        ],
    },
    "history": {
        "weight": 6,
        "slots": {
            "trade": table("""
Salt | Salt paid for armies, and the men who taxed it slept badly.
Silk | Silk came over mountains and seas, and with it came news, fashions and fevers.
Spice | A sack of spice could buy a house, and more than one family drowned for it.
Paper | Paper made clerks, clerks made laws, and the laws were written down on paper.
Sugar | Sugar was sweet to some and murder to others, and the account books tell both stories.
Wool | Sheep emptied the villages and filled the ports, and wool built the churches.
Iron | Where there was iron there was fire, and whole forests went up in smoke.
Glass | The secret of clear glass was guarded like a crown, and sold all the same.
"""),
            "place": {name: PLACES[name] for name in HISTORIC},
            "era": table("""
1450-1550 | The century after 1450 brought printing, plague and new maps.
1550-1650 | Between 1550 and 1650 faith and hunger set neighbors against each other.
1650-1750 | After 1650 the merchants built in stone and had themselves painted in black.
1750-1850 | From 1750 on the machines came, and the old guilds were swept away within a lifetime.
1850-1950 | The hundred years to 1950 began with steam and ended in rubble.
"""),
        },
        "base": "{trade} and Power in {place}, {era}",
        "facts": lines("""
The author has worked for years in the city archives and it shows on every page.
Letters, wills and court records let ordinary people speak.
It is a learned book that wears its learning lightly.
There are twelve maps, forty plates and a full index.
"""),
        "houses": [
            {
                "title": "{base} (Wexcombe Studies in History)",
                "open": "This study asks who held power in the city, and how they paid for it.",
                "plan": "open trade era place fact close",
                "close": "Wexcombe Studies in History publishes new research for students and scholars.",
                "weight": 3,
            },
            {
                "title": "{base}, by {author}",
                "open": (
                    "In this bold and moving book {author} tells the story of a city through one thing "
                    "that everybody wanted."
                ),
                "plan": "open place trade era fact review story more close",
                "story": (
                    "The first part follows the goods from the ground to the warehouse and introduces the "
                    "people through whose hands they passed: carriers, widows, smugglers and bishops. The "
                    "second part turns to the town hall, where the money was counted, and shows how a "
                    "handful of families came to own the gates, the scales and finally the law. The third "
                    "part is about those who lost. It ends with a trial of which the full record has "
                    "survived, so that we can hear the voices of porters and kitchen maids across the "
                    "centuries, sharp, funny and unafraid. An afterword explains how the sources were "
                    "found and what is still missing."
                ),
                "more": (
                    "What makes the book so readable is its eye for small things. We learn what a porter "
                    "ate at noon, what a widow paid for a window, and why the scales at the north gate "
                    "were always a little kind to the bishop. The author has walked every street with an "
                    "old plan in hand and can tell us which walls are still there, and under what shops. "
                    "Dates and prices are kept to the notes, which are as good as the text and much "
                    "funnier. The pictures were chosen with care and many have not been printed before: "
                    "account books with drawings in the margin, a carved bench end, the only known "
                    "portrait of a smuggler. At the end there is a walk of three hours for those who wish "
                    "to see the places for themselves."
                ),
                "close": "Professor {last} teaches history and has won several prizes for earlier books.",
                "weight": 3,
            },
        ],
    },
    "travel": {
        "weight": 4,
        "slots": {
            "place": PLACES,
            "who": table("""
Walkers | Thirty walks, from one hour to two days, are described step by step with simple maps.
Families | Every page has been checked by children for boredom, stairs and ice cream.
Food Lovers | It lists the market stalls, the bakers and the back rooms where the cooks themselves eat.
Artists | It leads to the quiet corners with good light and a wall to sit on.
Slow Travelers | There are no lists of sights, only a few places and good reasons to stay there.
"""),
        },
        "base": "{place} for {who}",
        "facts": lines("""
The chapter on getting there by train is worth the price alone.
Prices and opening hours were checked this spring.
A fold-out map is tucked into the back cover.
A short list of useful phrases will get you fed and forgiven.
"""),
        "houses": [
            {
                "title": "Penrose Pocket Guide: {base}, {edition} Edition",
                "open": ("The {edition} edition of this well-loved guide has been revised from cover to cover."),
                "plan": "place who open fact close",
                "close": "Penrose Pocket Guides weigh less than a sandwich and last longer.",
                "weight": 3,
            },
            {
                "title": "{base} (Footloose Guides)",
                "open": "Leave the crowds behind.",
                "plan": "open who place",
                "weight": 2,
            },
        ],
    },
    "philosophy": {
        "weight": 4,
        "slots": {
            "idea": table("""
Happiness | Happiness may not be a feeling at all, the author suggests, but a way of paying attention.
Friendship | A friend is someone before whom we can think aloud, and that makes friendship a school of
    truth.
Silence | Silence is not the absence of speech but what gives speech its weight.
Freedom | We are free, on this view, not when we can do anything but when we can answer for what we do.
Envy | Envy is the one vice that gives no pleasure, and for that reason it tells us most about ourselves.
Patience | Patience is shown to be a kind of courage that makes no noise.
Doubt | Doubt is defended as a form of respect for the truth.
Hope | Hope is neither a forecast nor a wish, but a decision that has to be made again every morning.
Forgiveness | To forgive is not to forget; it is to remember in a different way.
Solitude | Solitude is praised as the place where we find out whom we have been talking to.
"""),
            "form": table("""
An Essay | It is a short essay, written in clear and friendly prose, and it can be read in an evening.
Three Dialogues | Three friends talk through three nights, and the reader is the fourth at the table.
Letters to a Student | The letters are written to a student who argues back, and who is sometimes right.
A Short History | From the ancients to our own day, it tells how the idea has changed and what has been
    lost.
Lectures | The lectures were given to a full hall, and something of the room can still be heard in them.
"""),
        },
        "base": "On {idea}: {form}",
        "facts": lines("""
No knowledge of philosophy is needed, only a little patience.
The notes at the end point the way to further reading.
It is the kind of book one lends and does not get back.
The argument is careful, but the examples come from the kitchen and the street.
"""),
        "houses": [
            {
                "title": "{base}",
                "plan": "idea form fact",
                "weight": 3,
            },
            {
                "title": "{base} (Eldergate Library of Thought), by {author}",
                "open": "{author} is a rare thing, a philosopher who can be read on a train.",
                "plan": "open idea form fact review close",
                "close": "The Eldergate Library of Thought offers small books on large questions.",
                "weight": 2,
            },
        ],
    },
    "science fiction": {
        "weight": 4,
        "slots": {
            "object": table("""
Ashes | A city has burned on a world without fire, and the ashes are still warm.
Engines | Deep under the ice the old engines have begun to turn.
Gardeners | The gardeners were sent ahead to make the air, and then the ships never came.
Heirs | Three heirs to the same throne wake from the same cold sleep.
Mirrors | The great mirrors that warm the colony are turning away, one by one.
Pilots | Only the pilots dream, and lately they all dream of the same door.
"""),
            "saga": table("""
Long Orbit | The Long Orbit series follows one ship and its quarrelsome crew to the edge of the map.
Tin Moon | The Tin Moon novels are set among miners, smugglers and honest machines.
Salt Stars | In the world of the Salt Stars every voyage takes a lifetime and every letter comes too late.
Ninth Gate | The Ninth Gate saga spans a thousand years and four families.
Glass Empire | The Glass Empire is a warning, a love story and a very good joke about taxes.
"""),
            "part": table("""
Book One | This first volume introduces the crew and sets the trap.
Book Two | In the second volume the war can no longer be put off.
Book Three | The third volume takes the story home, where nothing is as they left it.
Book Four | The fourth and final volume answers every question but one.
"""),
        },
        "base": "The {object} of {world}",
        "facts": lines("""
It is fast, strange and full of feeling.
The science is sound and the jokes are better.
Fans of the series have waited three years for this.
It was a finalist for the Comet Prize.
"""),
        "houses": [
            {
                "title": "{base} ({saga}, {part})",
                "open": "Nobody lands on {world} twice.",
                "plan": "open object saga part fact",
                "weight": 4,
            },
            {
                "title": "{base}: {saga} {part} (Nightdock SF)",
                "open": "On {world} the days are long and the law is far away.",
                "plan": "open object part review saga close",
                "close": "Nightdock SF: new worlds at old prices.",
                "weight": 2,
            },
        ],
    },
    "romance": {
        "weight": 4,
        "slots": {
            "trade": table("""
Baker | Nell Hartley gets up at three to light the ovens and has no time for love.
Vet | Kate Dunmore can calm any horse in the county, but people are another matter.
Teacher | Miss Rose Avery has come to teach in a village with one room and thirty children.
Florist | Lily Crane sells flowers for other people's weddings and goes home alone.
Doctor | Dr. Anna Wells has left the city with one suitcase and a broken heart.
Librarian | Grace Tilney knows what everyone reads, and so she knows nearly everything.
Gardener | Hope Merrow has been hired to bring a dead garden back to life by June.
Innkeeper | Molly Brandt has an inn, a leaking roof and three weeks to pay the bank.
"""),
            "bond": table("""
Promise | Then a man comes back who made her a promise when they were nine years old.
Secret | But the stranger in the corner seat knows the one thing she has never told anyone.
Second Chance | The last person she expects at the door is the man who left her at the altar.
Winter Wish | Snow closes the road, and a traveler with a sick child must stay until it melts.
Inheritance | By her uncle's will she must share the house for a year with a man she cannot stand.
Summer Guest | The quiet guest in the attic says that he is a painter, but he never paints.
"""),
            "town": table("""
Clover Bay | Clover Bay is a place where everyone waves and nobody minds their own business.
Juniper Creek | Juniper Creek has one street, two churches and more matchmakers than trees.
Willow Ford | In Willow Ford the river decides who is a neighbor and who is a guest.
Starling Hill | From Starling Hill you can see three counties and everybody's washing.
"""),
        },
        "base": "The {trade}'s {bond}",
        "facts": lines("""
It is warm, funny and just sad enough.
Keep a handkerchief near, and a biscuit.
The dog is the best character in the book.
A recipe for the famous plum cake is included.
"""),
        "houses": [
            {
                "title": "{base} (A {town} Romance)",
                "plan": "trade bond town fact",
                "weight": 4,
            },
            {
                "title": "{base}: {town} (Dovecote Hearts, Mass Market)",
                "open": "A new Dovecote Heart.",
                "plan": "open trade bond",
                "weight": 2,
            },
        ],
    },
    "crafts": {
        "weight": 4,
        "slots": {
            "craft": table("""
Knitting | From casting on to the last seam, knitting is shown stitch by stitch in clear drawings.
Woodcarving | A sharp knife and a piece of lime are enough for woodcarving, and both are explained.
Bookbinding | Bookbinding needs paper, thread, glue and a heavy dictionary.
Watercolor | Watercolor is a matter of water first and color second, and of knowing when to stop.
Beekeeping | The year of the bees is followed month by month, from the first flight to the honey.
Pottery | Pottery can be learned without a wheel, and the first pots are pinched from a ball of clay.
Quilting | Quilting begins with old shirts and ends with something for the next generation.
Basketry | Baskets are woven from willow, rush and even newspaper.
Origami | Origami asks for one square of paper and a clean table.
Sourdough | A sourdough starter is fed, named and kept alive in chapter one.
"""),
            "level": table("""
for Beginners | Nothing is taken for granted, and every mistake has its own page.
in a Weekend | Each project can be started on Saturday morning and shown off on Sunday night.
with Children | The projects are safe, quick and sorted by age.
for Experts | Those who know the basics will find forty harder patterns and some old secrets.
Step by Step | Each step has its own photograph, taken over the shoulder of the maker.
"""),
        },
        "base": "{craft} {level}",
        "facts": lines("""
A list of suppliers is given at the back.
The patterns are printed at full size.
The author has taught evening classes for thirty years.
The binding lies flat on the bench.
"""),
        "houses": [
            {
                "title": "{base}: A Workbench Manual by {author}",
                "open": "{author} shows that patience is a tool like any other.",
                "plan": "craft level open fact",
                "weight": 3,
            },
            {
                "title": "{base} (Idle Hands Library)",
                "open": "What can two hands do?",
                "plan": "open craft level fact close",
                "close": (
                    "The Idle Hands Library has taught more than a million people to make things badly, "
                    "then better, then well."
                ),
                "weight": 2,
            },
        ],
    },
    "textbook": {
        "weight": 4,
        "slots": {
            "subject": table("""
Algebra | The book leads from simple equations to groups and rings without a jump.
Botany | It covers the cell, the leaf, the flower and the forest, with keys to the common families.
Economics | Markets, money, work and welfare are treated in turn, with data up to last year.
Geology | Rocks, rivers, ice and time are explained with the help of two hundred drawings.
Chemistry | It begins with the atom and ends with the chemistry of the kitchen and the sea.
Statistics | Every idea is introduced with a question from daily life and a small table of numbers.
Logic | The rules of sound argument are built up slowly, from and, or and not.
Anatomy | Bones, muscles, nerves and vessels are shown layer by layer in full color.
Linguistics | Sounds, words and sentences are studied in examples from sixty languages.
Astronomy | From the calendar to the black hole, it explains what we see and how we know.
"""),
            "kind": table("""
A First Course | It is meant for the first year of college and asks for no more than school mathematics.
Problems and Solutions | There are nine hundred problems, and all the solutions are worked out in full.
A Concise Introduction | In under two hundred pages it gives the main ideas and leaves the rest for later.
Study Guide | The guide follows the lectures week by week, with tests and short summaries.
Exam Review | Each chapter ends with a practice exam under real conditions.
"""),
        },
        "base": "{subject}: {kind}",
        "facts": lines("""
Answers to the odd-numbered exercises are at the back.
Key terms are set in bold and gathered in a glossary.
Slides and a test bank are available to teachers.
The tone is friendly and the pace is steady.
"""),
        "houses": [
            {
                "title": "{base}, {edition} Edition (Ashdown College Texts)",
                "open": (
                    "Now in its {edition} edition, this clear and reliable text has been brought up to date throughout."
                ),
                "plan": "open subject kind fact close",
                "close": ("Ashdown College Texts are printed on paper that takes a pencil and forgives an eraser."),
                "weight": 4,
            },
            {
                "title": "{base} (Instructor's Copy)",
                "open": "Instructor's copy of the {subject} text, not for resale.",
                "plan": "open",
                "weight": 1,
            },
        ],
    },
    "biography": {
        "weight": 4,
        "slots": {
            "job": table("""
Mapmaker | Maps were state secrets then, and a mapmaker was always half a spy.
Composer | Nine operas were booed, and the tenth is still sung in every country in the world.
Botanist | Four hundred plants were brought home alive in boxes of damp moss.
Bridge Builder | Seven bridges still stand, and the eighth is the reason why nobody spoke the name for fifty
    years.
Actress | On the stage a queen, off it a keeper of hens, and at ease in both parts.
Surgeon | The first operation was done on a kitchen table by the light of four candles.
Printer | One small press in a cellar printed what no one else dared to.
Explorer | Three times the ship was given up for lost, and three times it came home.
"""),
            "form": table("""
A Life | This is the first full life, and it draws on letters that were opened only last year.
The Early Years | The story ends at thirty, with the ticket bought and the trunk packed.
A Portrait in Letters | The letters have been left as they were, with the bad spelling and the good jokes.
The Untold Story | Much has been told before, but never by someone who had read the diaries.
"""),
        },
        "base": "{author}, {job}: {form}",
        "facts": lines("""
It reads like a novel and is better documented than most.
Sixteen pages of photographs are included.
The portrait is fair, and at times painfully so.
A family tree helps with the many cousins.
"""),
        "houses": [
            {
                "title": "{base}",
                "open": "{author} was born poor, died famous and was bored by both.",
                "plan": "open job form fact",
                "weight": 3,
            },
            {
                "title": "{base} (Candlewick Row Lives)",
                "open": "Who was {author}?",
                "plan": "open job review story more form fact close",
                "story": (
                    "The early chapters are set in a house with too many children and too few chairs, "
                    "where the young {last} learned to draw, to argue and to leave. Then come the years "
                    "of work, told from day books and bills as much as from memory, and the long "
                    "friendship with a rival that was ended by one careless sentence at dinner. The last "
                    "chapters are the most surprising. Sick, half forgotten and short of money, {last} "
                    "began again in a new town under a plain name, and did there what many now think is "
                    "the best work of all. The author has visited every house, walked every road and read "
                    "every page."
                ),
                "more": (
                    "It is also a book about a time and a trade. We are shown the workshop with its "
                    "smells and its rules, the masters who would not teach and the patrons who would not "
                    "pay, and the long roads between one town and the next. The letters are quoted at "
                    "length and they are wonderful: angry, tender, full of lists. One is to a landlord "
                    "about a window, another to a daughter on how to behave at a funeral. The author does "
                    "not hide the faults of {author}, who could be vain, late and unkind, and who was "
                    "always sorry afterwards. What remains is the sense of having met someone. Readers "
                    "who know nothing of the subject will be carried along, and those who think they know "
                    "it all will have to begin again."
                ),
                "close": "Candlewick Row Lives are illustrated throughout and sewn in sections.",
                "weight": 2,
            },
        ],
    },
    "poetry": {
        "weight": 2,
        "slots": {
            "theme": table("""
Rain | Rain falls through these poems in all its moods, from drizzle to flood.
Bread | These are poems about bread, hunger and the people who get up before dawn.
Rivers | Each poem follows a river, and each river comes to the same sea.
Winter | The poems are bare and bright, like a field after the first frost.
Sons | A mother speaks to her sons, who do not answer.
Small Towns | The poems know the bus stop, the bar and the empty shop on the corner.
"""),
            "count": table("""
Thirty Poems | Thirty short poems, none of them longer than a page.
Selected Poems | The selection was made by the poet from eleven books.
New Poems | All of the poems are new, and some of them were finished in the hospital.
Sonnets | They are sonnets, but so easy in their coat that one hardly notices.
"""),
        },
        "base": "{theme}: {count}",
        "facts": lines("""
They should be read slowly, and not all at once.
A ribbon and cream paper make it a good present.
Critics have called it plain, and meant it as praise.
The poet reads them aloud on the enclosed disc.
"""),
        "houses": [
            {
                "title": "{base} by {author}",
                "open": "{author} has a voice of rare quiet.",
                "plan": "theme count open fact",
                "weight": 3,
            },
            {
                "title": "{base} (Chapbook by {author})",
                "open": "Stapled chapbook, 32 pages, signed by {author}.",
                "plan": "open",
                "weight": 1,
            },
        ],
    },
    "religion": {
        "weight": 3,
        "slots": {
            "book": table("""
Ruth | It is a story of harvest, loyalty and two widows who will not be parted.
Job | A good man loses everything, and his friends explain to him why.
Jonah | A prophet runs away from his task and is angry when it succeeds.
Psalms | These songs were sung in joy and in despair, and they are still sung.
Proverbs | The sayings are short, and each of them was bought with somebody's mistake.
Ecclesiastes | The Preacher has seen everything under the sun and is not impressed.
Esther | A queen hides her name, and the name of God is not mentioned once.
Amos | A herdsman walks into the market and tells the rich what they do not wish to hear.
Daniel | There are lions, a fiery furnace and dreams that trouble kings.
Mark | It is the shortest of the gospels and always in a hurry.
"""),
            "form": table("""
A Commentary | The text is explained verse by verse, with notes on the Hebrew and the Greek.
A Study for Small Groups | Twelve evenings are planned, each with a reading, three questions and time for
    silence.
Daily Readings | There is one page for each day, with a prayer at the end.
A New Translation | The translation is fresh, spare and close to the original.
"""),
        },
        "base": "The Book of {book}: {form}",
        "facts": lines("""
It is written for preachers, but anyone may read it with profit.
The author takes the text seriously and himself less so.
Maps and a table of dates are included.
No special knowledge is needed.
"""),
        "houses": [
            {
                "title": "{base} (Cloister Press)",
                "plan": "book form fact close",
                "close": "Cloister Press has printed books for churches and doubters since 1902.",
                "weight": 3,
            },
            {"title": "{base}", "plan": "form book", "weight": 2},
        ],
    },
    "nature": {
        "weight": 3,
        "slots": {
            "group": table("""
Birds | All the common birds are shown at rest and in flight, with their songs put into words.
Butterflies | Butterflies are painted life size, with wings open and closed.
Mushrooms | Each mushroom is shown whole and cut, and the deadly ones have a black border.
Wildflowers | The wildflowers are sorted by color, so that you need no botany to find a name.
Trees | Trees can be told by leaf, bark, bud and shape, in summer and in winter.
Shells | The shells are photographed wet, as you will find them.
Mosses | Mosses are for patient people, and a lens is tucked into the cover.
Spiders | Even those who fear spiders will be won over by their gardens of silk.
"""),
            "region": table("""
the Northern Coast | The northern coast has cold clear water, high cliffs and few people.
the Great Plains | On the Great Plains the sky is most of the view.
the High Desert | The high desert looks empty at noon and is full of life at dawn.
the River Valleys | In the river valleys the ground is rich and the mist is late to rise.
the Southern Hills | The southern hills are dry, stony and sweet with thyme.
"""),
        },
        "base": "{group} of {region}",
        "facts": lines("""
A key inside the cover leads you to the right page in three steps.
The cover is waterproof and the corners are round.
It fits the pocket of a field jacket.
A check list lets you note where and when.
"""),
        "houses": [
            {
                "title": "A Field Guide to the {base} (Heron Guides)",
                "plan": "group region fact close",
                "close": "Heron Guides are made by people who would rather be outside.",
                "weight": 3,
            },
            {
                "title": "{base}: A Folding Pocket Chart",
                "open": "Laminated folding chart of {group}, eight panels.",
                "plan": "open",
                "weight": 1,
            },
        ],
    },
    "album": {
        "weight": 4,
        "slots": {
            "style": table("""
Jazz | The band plays late-night jazz, unhurried and close to the microphone.
Folk | The songs are old, the voices are young and the fiddle leads the way.
Tango | The tangos are proud, dark and meant to be danced to.
Choral | The choir sings without organ in a stone church with seven seconds of echo.
Piano | One piano, one player and one afternoon were all it took.
Blues | It is blues with dust on it, played on a guitar with a cracked top.
"""),
            "place": PLACES,
        },
        "base": "{author}: {style} from {place}",
        "facts": lines("""
The booklet has all the words and a good photograph.
It was recorded in two days with no second takes.
Three of the tracks have never been released before.
The sound has been cleaned without losing the room.
"""),
        "houses": [
            {
                "title": "{base} (Blue Heron Records CD)",
                "plan": "style place fact close",
                "close": "Blue Heron Records is run from a boat and answers its own telephone.",
                "weight": 3,
            },
            {
                "title": "{base} [Vinyl LP]",
                "open": "{style} LP by {author}, new and still sealed.",
                "plan": "open",
                "weight": 1,
            },
        ],
        "goods": True,
    },
}

# Drawn at random by the plans that ask for `review`.
REVIEWS = lines("""
"A small miracle," wrote the Wexcombe Courier, "and a large pleasure."
The Northern Review called it "the best of its kind in years."
"I read it twice in one week," said one bookseller, "and sold forty copies."
The Evening Lamp found it "wise, sharp and never dull."
""")

# Whole records in other languages: title and content.
FOREIGN = table("""
La cocina de la abuela: 80 recetas de {place} | Las recetas de una abuela que nunca midió nada, contadas por
    su nieta con mucho cariño. El libro está en español.
Pequeña historia de {place} | Un paseo breve y ameno por la historia de la ciudad, desde los orígenes hasta
    mañana. El libro está en español.
Le jardin en hiver: poèmes de {place} | Des poèmes brefs et clairs, écrits près d'une fenêtre où il neige.
    Texte en français.
Les carnets de {author}, édition complète | Les carnets intimes d'une vie passée entre deux gares et trois
    cafés. Texte en français.
Kleines Wörterbuch für Reisende: {place} | Die wichtigsten Wörter und Sätze für unterwegs, mit Aussprache
    und kleinen Geschichten. Text auf Deutsch.
Märchen aus {place} für Groß und Klein | Schöne alte Märchen, neu erzählt und mit bunten Bildern versehen.
    Text auf Deutsch.
""")

# The three titles of the demonstration and what the catalogue says about them.
DEMO = {
    "Nice for Mice": [
        "Three small mice find a house that is exactly right: it has a crumb under every chair and no cat "
        "for miles. Then winter comes, and with it a very cold stranger with whiskers. Is there room for "
        "one more? The rhymes are easy to remember, the soft pictures in pencil and paint reward a second "
        "look, and the last page is warm as toast. For ages three to six, to be read by one and listened "
        "to by two.",
        "A picture book in rhyme about sharing a house, a cheese and a blanket.",
    ],
    "On Happiness, U.S. Edition": [
        "Happiness may not be a feeling at all, the author suggests, but a way of paying attention. In "
        "ten short chapters this book asks why we hunt for it, why we so seldom notice it, and what the "
        "old schools of thought can still teach us about an ordinary Tuesday. The argument is careful, "
        "but the examples come from the kitchen and the street. This edition has American spelling and a "
        "new preface for readers in the United States.",
    ],
    "The book of revelation": [
        "A young scholar is sent to a monastery on a bare island to copy the last book of the Bible "
        "before the damp destroys it. Night after night he finds notes in the margin in a hand that he "
        "knows: it is his own. A novel about faith, memory and the end of the world, which may have "
        "happened already and gone unnoticed.",
        "The text is explained verse by verse, with notes on the Greek. The author reads the seals, the "
        "trumpets and the city of gold as letters of comfort to frightened people, and not as a "
        "timetable.",
    ],
}

# Contents that say next to nothing, under titles that promise more; some shops write no better.
STUBS = lines("""
No description available.
New, never used.
Used, in good condition.
Second-hand; some marks.
""")

# Notes of the shop, added to some contents at random.
NOTES = lines("""
Usually ships within two days.
Supplies are limited this season.
Also sold in our shop on the corner.
See our other listings for more of the same.
Orders before noon leave the same day.
A favorite of ours for many years.
""")
