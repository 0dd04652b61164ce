import json
import re
import zlib


class Node:
    """A binary tree without balance, as beginners write it."""

    def __init__(self, key):
        self.key, self.left, self.right = key, None, None

    def insert(self, key):
        node = self
        while True:
            side = "left" if key < node.key else "right"
            child = getattr(node, side)
            if child is None:
                setattr(node, side, Node(key))
                return
            node = child

    def walk(self):
        if self.left:
            yield from self.left.walk()
        yield self.key
        if self.right:
            yield from self.right.walk()


def sequence(count, seed=1):
    for _ in range(count):
        seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
        yield seed >> 33


check = 0


def note(value):
    global check
    check = zlib.crc32(repr(value).encode(), check)


numbers = list(sequence(20000))
root = Node(2**30)
for number in numbers[:6000]:
    root.insert(number)
note(sum(key * place for place, key in enumerate(root.walk())))

words = {}
for number in numbers:
    word = "".join(chr(97 + (number >> shift) % 7) for shift in (0, 3, 6))
    words.setdefault(word, []).append(number % 1000)
note(sorted((len(found), word) for word, found in words.items())[:20])

records = [{"id": k, "name": f"item {k:05}", "values": [k * 0.25, k // 3, None], "even": k % 2 == 0} for k in range(3000)]
text = json.dumps(records, indent=1)
note(len(text))
note(sum(len(record["name"]) for record in json.loads(text) if record["even"]))
note(len(re.findall(r'"item (\d*)5"|true', text)))

board = []


def queens(row, columns, up, down):
    if row == 7:
        return 1
    return sum(
        queens(row + 1, columns | {c}, up | {row + c}, down | {row - c})
        for c in range(7)
        if c not in columns and row + c not in up and row - c not in down
    )


note(queens(0, frozenset(), frozenset(), frozenset()))
number = 1
for k in range(1, 800):
    number *= k
note(len(str(number)))
note(pow(3, 10**300, 10**299 + 7) % 2**64)
print(check)
