"""Right programs with the tests that people write for them: every one passes."""

from __future__ import annotations

import textwrap

import pytest

from ponder.verifiers.code import Code
from tests.needs import tool
from tests.verifiers.hand import values


@pytest.fixture(autouse=True)
def _bubblewrap() -> None:
    tool("bwrap", "bubblewrap")


HONEST = {
    "equal numbers": (
        "def double(x):\n    return 2 * x",
        "assert double(2) == 4\nassert double(1.5) == 3.0\nassert double('a') == 'aa'\nassert double(2**70) == 2**71",
    ),
    "check(candidate)": (
        "from typing import List\ndef longest(strings: List[str]) -> str:\n"
        "    return max(strings, key=len, default=None)",
        """
        METADATA = {'author': 'jt', 'dataset': 'test'}

        def check(candidate):
            assert candidate([]) == None
            assert candidate(['x', 'yyy', 'zz']) == 'yyy'

        check(longest)
        """,
    ),
    "nearly equal": (
        "def third(x):\n    return x / 3",
        """
        import math
        assert abs(third(1.0) - 0.3333333) < 1e-6
        assert math.isclose(third(2), 0.6666666, rel_tol=1e-6)
        assert round(third(10), 2) == 3.33
        assert math.isnan(third(float('nan'))) and third(float('inf')) == float('inf')
        """,
    ),
    "all plain values": (
        "def same(x):\n    return x",
        """
        from collections import Counter, OrderedDict, defaultdict, deque
        from datetime import date, datetime, timedelta, timezone
        from decimal import Decimal
        from fractions import Fraction
        assert same(10**5000) == 10**5000
        for x in (
            None, True, 0, -1, 10**4000, 0.1, -0.0, 1e308, 2 + 3j, '', 'é\\ud800\\x00', b'\\x00\\xff', (), (1, (2,)),
            [],
            [1, [2, [3]]], {}, {1: 'a', (1, 2): [3], None: {}}, {1, 2}, frozenset({1}), range(3, 9, 2),
            bytearray(b'ab'), Counter('aab'), OrderedDict(b=1, a=2), deque([1, 2], 3), Decimal('1.10'), Fraction(1, 3),
            date(2024, 2, 29), datetime(2024, 1, 1, 12, 30, tzinfo=timezone.utc), timedelta(days=1, seconds=3), ...,
        ):
            assert same(x) == x and type(same(x)) is type(x) and repr(same(x)) == repr(x), x
        d = same(defaultdict(list, a=[1]))
        d['b'].append(2)
        assert d == {'a': [1], 'b': [2]}
        assert same({'a': 1}.keys()) == {'a'} and same({'a': 1}.items()) == {('a', 1)}
        assert same(int) is int and same(ValueError) is ValueError
        """,
    ),
    "sorting in place": (
        """
        def bubble(items):
            for i in range(len(items)):
                for j in range(len(items) - 1 - i):
                    if items[j] > items[j + 1]:
                        items[j], items[j + 1] = items[j + 1], items[j]
        def rotate(matrix):
            matrix[:] = [list(row) for row in zip(*matrix[::-1])]
        def zero(matrix):
            for row in matrix:
                row[0] = 0
        """,
        """
        items = [3, 1, 2]
        assert bubble(items) is None
        assert items == [1, 2, 3]
        matrix = [[1, 2], [3, 4]]
        rotate(matrix)
        assert matrix == [[3, 1], [4, 2]]
        row = matrix[1]
        zero(matrix)
        assert matrix == [[0, 1], [0, 2]] and row == [0, 2] and row is matrix[1]
        """,
    ),
    "the same object comes back": (
        "def add(items, x):\n    items.append(x)\n    return items\n"
        "kept = []\ndef keep(x):\n    kept.append(x)\n    return kept",
        """
        items = [1]
        assert add(items, 2) is items and items == [1, 2]
        assert keep(1) is keep(2)
        assert kept == [1, 2]
        kept.clear()
        assert keep(3) == [3]
        loop = []
        loop.append(loop)
        assert add(loop, 1)[0] is loop
        """,
    ),
    "what is kept is shared": (
        "class Box:\n    def __init__(self, items):\n        self.items = list(items)\n"
        "class Shelf:\n    def __init__(self, items):\n        self.items = items",
        """
        mine = [1]
        box, shelf = Box(mine), Shelf(mine)
        mine.append(2)
        assert box.items == [1]
        assert shelf.items == [1, 2]
        shelf.items.append(3)
        assert mine == [1, 2, 3]
        """,
    ),
    "a stack": (
        """
        class Stack:
            'Last in, first out.'
            def __init__(self):
                self.items = []
            def push(self, item):
                self.items.append(item)
            def pop(self):
                if not self.items:
                    raise IndexError('pop from empty stack')
                return self.items.pop()
            def __len__(self):
                return len(self.items)
            def __iter__(self):
                return iter(self.items)
            def __contains__(self, item):
                return item in self.items
            def __getitem__(self, index):
                return self.items[index]
            def __repr__(self):
                return f'Stack({self.items})'
            def __bool__(self):
                return bool(self.items)
        """,
        """
        s = Stack()
        assert not s and len(s) == 0 and isinstance(s, Stack) and type(s) is Stack
        s.push(1)
        s.push(2)
        assert s and len(s) == 2 and list(s) == [1, 2] and 2 in s and 3 not in s and s[0] == 1 and s[-1] == 2
        assert repr(s) == str(s) == f'{s}' == 'Stack([1, 2])'
        assert s.pop() == 2 and s.pop() == 1
        try:
            s.pop()
        except IndexError as error:
            assert str(error) == 'pop from empty stack' and error.args == ('pop from empty stack',)
        else:
            assert False
        assert hasattr(s, 'push') and not hasattr(s, 'peek')
        assert Stack.__name__ == 'Stack' and Stack.__doc__ == 'Last in, first out.'
        """,
    ),
    "linked nodes": (
        """
        class Node:
            def __init__(self, value, next=None):
                self.value, self.next = value, next
        def reverse(head):
            before = None
            while head:
                head.next, before, head = before, head, head.next
            return before
        """,
        """
        head = Node(1, Node(2, Node(3)))
        first, head = head, reverse(head)
        values = []
        while head is not None:
            values.append(head.value)
            last, head = head, head.next
        assert values == [3, 2, 1]
        assert last is first and last.next is None
        """,
    ),
    "nodes of the test": (
        """
        def reverse(head):
            before = None
            while head is not None:
                head.next, before, head = before, head, head.next
            return before
        def depth(tree):
            return 0 if tree is None else 1 + max(depth(tree.left), depth(tree.right))
        """,
        """
        class ListNode:
            def __init__(self, val=0, next=None):
                self.val, self.next = val, next
        class TreeNode:
            left = right = None
        n = ListNode(1, ListNode(2))
        r = reverse(n)
        assert (r.val, r.next.val, r.next.next) == (2, 1, None) and r.next is n
        t = TreeNode()
        t.left = TreeNode()
        t.left.right = TreeNode()
        assert depth(t) == 3
        """,
    ),
    "a tree that the test builds": (
        "class Tree:\n    def __init__(self, value):\n        self.value, self.children = value, []\n"
        "    def total(self):\n        return self.value + sum(c.total() for c in self.children)",
        """
        root = Tree(1)
        root.children.append(Tree(2))
        root.children[0].children.extend([Tree(3), Tree(4)])
        root.value = 10
        assert root.total() == 19 and [c.value for c in root.children[0].children] == [3, 4]
        """,
    ),
    "operators of a class": (
        """
        import math
        class Vector:
            def __init__(self, x, y):
                self.x, self.y = x, y
            def __eq__(self, other):
                return isinstance(other, Vector) and (self.x, self.y) == (other.x, other.y)
            def __hash__(self):
                return hash((self.x, self.y))
            def __add__(self, other):
                return Vector(self.x + other.x, self.y + other.y)
            def __sub__(self, other):
                return Vector(self.x - other.x, self.y - other.y)
            def __mul__(self, k):
                if isinstance(k, Vector):
                    return self.x * k.x + self.y * k.y
                return Vector(self.x * k, self.y * k)
            __rmul__ = __mul__
            def __truediv__(self, k):
                return Vector(self.x / k, self.y / k)
            def __neg__(self):
                return Vector(-self.x, -self.y)
            def __abs__(self):
                return math.hypot(self.x, self.y)
            def __lt__(self, other):
                return abs(self) < abs(other)
            def __iadd__(self, other):
                self.x, self.y = self.x + other.x, self.y + other.y
                return self
            def __call__(self, name, *, default=0):
                return getattr(self, name, default)
            def __radd__(self, other):
                return self if other == 0 else NotImplemented
        """,
        """
        v, w = Vector(1, 2), Vector(3, 4)
        assert v + w == Vector(4, 6) and w - v == Vector(2, 2) and -v == Vector(-1, -2) and v != w
        assert v * w == 11 and v * 2 == 2 * v == Vector(2, 4) and w / 2 == Vector(1.5, 2.0)
        assert abs(w) == 5.0 and v < w and sorted([w, v]) == [v, w] and max(v, w) is w
        assert len({v, w, Vector(1, 2)}) == 2 and {v: 'a'}[Vector(1, 2)] == 'a' and Vector(3, 4) in [v, w]
        assert sum([v, w]) == Vector(4, 6)
        u = v
        v += w
        assert u is v and v.x == 4 and v('y') == 6 and v('z', default=9) == 9
        assert v != 3 and not v == (4, 6) and v is not None
        """,
    ),
    "errors expected": (
        """
        class BankError(Exception):
            pass
        class InsufficientFunds(BankError):
            def __init__(self, balance, amount):
                super().__init__(f'cannot take {amount} of {balance}')
                self.balance, self.amount = balance, amount
        class Account:
            def __init__(self, balance=0):
                self.balance = balance
            def withdraw(self, amount):
                if amount <= 0:
                    raise ValueError('not positive')
                if amount > self.balance:
                    raise InsufficientFunds(self.balance, amount)
                self.balance -= amount
        def wrapped():
            try:
                {}['a']
            except KeyError as error:
                raise RuntimeError('outer') from error
        """,
        """
        import unittest
        account = Account(balance=5)
        try:
            account.withdraw(10)
            assert False, 'no error'
        except InsufficientFunds as error:
            assert error.balance == 5 and error.amount == 10 and str(error) == 'cannot take 10 of 5'
            assert isinstance(error, BankError) and issubclass(InsufficientFunds, BankError)
        case = unittest.TestCase()
        with case.assertRaises(ValueError):
            account.withdraw(-1)
        case.assertRaisesRegex(BankError, 'cannot', account.withdraw, 6)
        with case.assertRaises(RuntimeError) as caught:
            wrapped()
        assert isinstance(caught.exception.__cause__, KeyError)
        def raises(kind, f, *args):
            try:
                f(*args)
            except kind:
                return True
            return False
        assert raises(TypeError, Account, 1, 2) and raises(AttributeError, getattr, account, 'nothing')
        assert account.balance == 5
        """,
    ),
    "functions given": (
        """
        import functools, inspect
        def apply(f, *args, **named):
            return f(*args, **named)
        def my_map(f, items):
            return [f(x) for x in items]
        def my_sort(items, key=None, reverse=False):
            return sorted(items, key=key, reverse=reverse)
        def compose(*fs):
            return lambda x: functools.reduce(lambda v, f: f(v), fs, x)
        def memoize(f):
            cache = {}
            @functools.wraps(f)
            def wrapper(*args):
                if args not in cache:
                    cache[args] = f(*args)
                return cache[args]
            return wrapper
        def curry(f):
            n = len(inspect.signature(f).parameters)
            def curried(*args):
                return f(*args) if len(args) >= n else lambda *more: curried(*args, *more)
            return curried
        def retry(times, errors=(Exception,)):
            def decorator(f):
                def wrapper(*args):
                    for i in range(times):
                        try:
                            return f(*args)
                        except errors:
                            if i == times - 1:
                                raise
                return wrapper
            return decorator
        """,
        """
        import operator
        assert my_map(lambda x: x + 1, [1, 2]) == [2, 3] and my_map(str, [1]) == ['1']
        assert my_map(str.upper, 'ab') == ['A', 'B']
        assert my_sort(['bb', 'a'], key=len) == ['a', 'bb'] and my_sort([1, 2], key=lambda x: -x) == [2, 1]
        assert apply(operator.add, 1, 2) == 3 and apply(dict, a=1) == {'a': 1} and apply(lambda *, k: k, k=[1]) == [1]
        assert compose(lambda x: x + 1, lambda x: x * 2)(3) == 8
        calls = []
        @memoize
        def square(x):
            'Squares.'
            calls.append(x)
            return x * x
        assert square(3) == 9 == square(3) and calls == [3]
        assert square.__name__ == 'square' and square.__doc__ == 'Squares.'
        assert curry(lambda a, b, c: a + b + c)(1)(2)(3) == 6
        class Flaky(Exception):
            pass
        tries = []
        @retry(3, errors=(Flaky,))
        def flaky(x):
            tries.append(x)
            if len(tries) < 3:
                raise Flaky('again')
            return x
        assert flaky(7) == 7 and tries == [7, 7, 7]
        @retry(2)
        def never():
            raise Flaky('mine')
        try:
            never()
            assert False
        except Flaky as error:
            assert error.args == ('mine',) and type(error) is Flaky
        seen = []
        apply(seen.append, 4)
        assert seen == [4]
        """,
    ),
    "generators": (
        """
        def count(n):
            for i in range(n):
                yield i
        def primes():
            n = 2
            while True:
                if all(n % d for d in range(2, n)):
                    yield n
                n += 1
        def echo():
            got = yield 'ready'
            while True:
                got = yield got
        def flatten(items):
            for item in items:
                if isinstance(item, list):
                    yield from flatten(item)
                else:
                    yield item
        def total(numbers):
            return sum(numbers)
        """,
        """
        import itertools, types
        assert list(count(3)) == [0, 1, 2] and sum(count(4)) == 6
        assert list(itertools.islice(primes(), 4)) == [2, 3, 5, 7]
        g = primes()
        assert next(g) == 2 and next(g) == 3 and isinstance(g, types.GeneratorType) and iter(g) is g
        e = echo()
        assert next(e) == 'ready' and e.send(5) == 5
        e.close()
        assert list(flatten([1, [2, [3]]])) == [1, 2, 3]
        assert total(x for x in (1, 2, 3)) == 6 and total(iter([1, 2])) == 3 and total(map(int, '12')) == 3
        it = count(1)
        next(it)
        try:
            next(it)
            assert False
        except StopIteration:
            pass
        """,
    ),
    "classes of values": (
        """
        from collections import namedtuple, Counter, defaultdict
        from dataclasses import dataclass, field
        from enum import Enum, IntEnum
        from typing import NamedTuple
        Point = namedtuple('Point', 'x y')
        class Row(NamedTuple):
            name: str
            size: int = 1
        @dataclass(order=True)
        class Item:
            price: float
            name: str = field(default='', compare=False)
            tags: list = field(default_factory=list)
        class Color(Enum):
            RED = 1
            BLUE = 2
        class Level(IntEnum):
            LOW = 1
            HIGH = 2
        class Celsius(float):
            def fahrenheit(self):
                return self * 9 / 5 + 32
        class Unique(list):
            def append(self, item):
                if item not in self:
                    super().append(item)
        def middle(p, q):
            return Point((p.x + q.x) / 2, (p.y + q.y) / 2)
        def words(text):
            return Counter(text.split())
        def groups(items):
            found = defaultdict(list)
            for item in items:
                found[len(item)].append(item)
            return found
        """,
        """
        p = middle(Point(0, 0), Point(2, 4))
        assert p == (1, 2) and p.x == 1 and p._asdict() == {'x': 1, 'y': 2} and p._replace(x=5) == Point(5, 2)
        assert Point._fields == ('x', 'y') and isinstance(p, tuple) and repr(p) == 'Point(x=1.0, y=2.0)' and p[1] == 2
        x, y = p
        assert (x, y) == (1, 2) and hash(p) == hash((1, 2)) and Row('a').size == 1
        a, b = Item(1.0, 'a'), Item(2.0, name='b')
        assert a < b and a == Item(1.0, 'z') and a.tags == [] and repr(a) == "Item(price=1.0, name='a', tags=[])"
        a.tags.append('new')
        assert a.tags == ['new'] and a != Item(1.0)
        assert Color.RED is Color(1) and Color['BLUE'].value == 2 and [c.name for c in Color] == ['RED', 'BLUE']
        assert Color.RED != Color.BLUE and len(Color) == 2 and Color.RED in Color and {Color.RED: 1}[Color.RED] == 1
        assert Level.HIGH > Level.LOW and Level.HIGH == 2 and Level.LOW + 1 == 2
        assert Celsius(100).fahrenheit() == 212 and Celsius(1) + 1 == 2 and isinstance(Celsius(1), float)
        u = Unique()
        u.append(1)
        u.append(1)
        u.extend([2])
        assert u == [1, 2] and len(u) == 2 and isinstance(u, list) and list(u) == [1, 2]
        assert words('a b a') == {'a': 2, 'b': 1} and words('a b a').most_common(1) == [('a', 2)]
        assert groups(['a', 'b', 'cc']) == {1: ['a', 'b'], 2: ['cc']}
        """,
    ),
    "parts of a class": (
        """
        from abc import ABC, abstractmethod
        class Shape(ABC):
            made = 0
            def __init__(self):
                Shape.made += 1
            @abstractmethod
            def area(self): ...
            @classmethod
            def unit(cls):
                return cls(1)
            @staticmethod
            def describe():
                return 'a shape'
        class Square(Shape):
            def __init__(self, side):
                super().__init__()
                self._side = side
            @property
            def side(self):
                return self._side
            @side.setter
            def side(self, value):
                if value < 0:
                    raise ValueError('negative')
                self._side = value
            def area(self):
                return self._side ** 2
        class Temporary:
            log = []
            def __enter__(self):
                self.log.append('in')
                return self
            def __exit__(self, kind, value, trace):
                self.log.append(kind.__name__ if kind else 'out')
                return kind is KeyError
        """,
        """
        s = Square.unit()
        assert s.area() == 1 and s.describe() == Shape.describe() == 'a shape' and Shape.made == 1
        s.side = 3
        assert s.side == 3 and s.area() == 9
        try:
            s.side = -1
            assert False
        except ValueError:
            pass
        try:
            Shape()
            assert False
        except TypeError as error:
            assert 'abstract' in str(error)
        assert isinstance(s, Shape) and not isinstance(s, Temporary) and issubclass(Square, Shape)
        assert s.__dict__ == {'_side': 3} and vars(s) == {'_side': 3} and getattr(s, 'nothing', 5) == 5
        with Temporary() as t:
            pass
        with Temporary():
            raise KeyError('a')
        assert Temporary.log == t.log == ['in', 'out', 'in', 'KeyError']
        Shape.made = 10
        Square(2)
        assert Shape.made == 11
        import copy
        c = copy.deepcopy(s)
        c.side = 8
        assert s.side == 3 and c.area() == 64
        """,
    ),
    "classes that the test derives": (
        """
        from abc import ABC, abstractmethod
        class Shape(ABC):
            sides = 0
            def __init__(self, name='shape'):
                self.name = name
            @abstractmethod
            def area(self): ...
            def describe(self):
                return f'{self.name} of {self.area()} and {self.sides} sides'
        class Registry:
            known = []
            def __init_subclass__(cls, **named):
                Registry.known.append((cls.__name__, named))
        """,
        """
        class Square(Shape):
            sides = 4
            def __init__(self, side):
                super().__init__('square')
                self.side = side
            def area(self):
                return self.side ** 2
            def describe(self):
                return 'a ' + super().describe()
            @property
            def double(self):
                return 2 * self.side
            @classmethod
            def unit(cls):
                return cls(1)
            @staticmethod
            def zero():
                return 0
        s = Square(3)
        assert s.describe() == 'a square of 9 and 4 sides' and s.double == 6 and Square.unit().area() == 1
        assert isinstance(s, Shape) and type(s) is Square and issubclass(Square, Shape) and Square.zero() == 0
        class Incomplete(Shape):
            pass
        try:
            Incomplete()
            assert False
        except TypeError:
            pass
        class Plugin(Registry, key='a'):
            pass
        assert Registry.known == [('Plugin', {'key': 'a'})]
        class Plain:
            def __init__(self):
                super().__init__()
                self.x = 1
        class More(Plain):
            def __init__(self):
                super().__init__()
                super(More, self).__init__()
        assert More().x == 1
        """,
    ),
    "files": (
        """
        import csv, os
        def total(path):
            with open(path, newline='') as file:
                return sum(int(row['n']) for row in csv.DictReader(file))
        def save(path, text):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, 'w') as file:
                file.write(text)
        def remove(path):
            os.remove(path)
        """,
        """
        import os, pathlib, tempfile
        with tempfile.NamedTemporaryFile('w', suffix='.csv') as file:
            file.write('n\\n1\\n2\\n')
            file.flush()
            assert total(file.name) == 3
            file.write('4\\n')
            file.flush()
            assert total(file.name) == 7
        with tempfile.TemporaryDirectory() as folder:
            place = os.path.join(folder, 'a', 'b.txt')
            save(place, 'x')
            assert open(place).read() == 'x'
            save(place, 'y' * 10**6)
            assert pathlib.Path(place).read_text() == 'y' * 10**6
            save(place, 'z')
            remove(place)
            assert os.listdir(os.path.dirname(place)) == []
        try:
            total('/tmp/nothing.csv')
            assert False
        except FileNotFoundError as error:
            assert error.filename == '/tmp/nothing.csv' and error.errno == 2
        """,
    ),
    "print and input": (
        """
        import sys
        def greet(name):
            print('Hello,', name)
        def ask():
            return int(input('n? ')) + int(sys.stdin.readline())
        def everything():
            return sys.stdin.read().split()
        """,
        """
        import contextlib, io, sys
        from unittest import mock
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            greet('Ann')
        assert out.getvalue() == 'Hello, Ann\\n'
        sys.stdin = io.StringIO('3\\n4\\nrest of\\nit')
        assert ask() == 7 and everything() == ['rest', 'of', 'it']
        with mock.patch('builtins.input', return_value='5'):
            sys.stdin = io.StringIO('6\\n')
            assert ask() == 11
        """,
    ),
    "a script that reads": (
        "n = int(input())\ndef double(x):\n    return 2 * x\nprint(double(n))",
        "assert double(4) == 8",
    ),
    "a script that reads it all": (
        "import sys\ndata = sys.stdin.read().split()\ndef double(x):\n    return 2 * x\n"
        "def main():\n    print(double(int(data[0])))\nmain()\nsys.exit(0)",
        "assert double(4) == 8",
    ),
    "a script with a guard": (
        "def double(x):\n    return 2 * x\nif __name__ == '__main__':\n    print(double(int(input())))",
        "assert double(4) == 8",
    ),
    "names and modules": (
        "import math\nLIMIT = 10\ncount = 0\nBIG = list(range(100))\ndef bump():\n    global count\n    count += 1\n"
        "def area(r):\n    return math.pi * r * r\ndef low(x):\n    return x < LIMIT",
        """
        import candidate
        from candidate import bump as b
        assert count == 0
        b()
        candidate.bump()
        assert count == 2 and candidate.count == 2 and LIMIT == 10 and BIG[3] == 3
        assert abs(area(1) - math.pi) < 1e-9
        assert not low(20)
        candidate.LIMIT = 30
        assert low(20)
        count = 7
        bump()
        assert count == 7 and candidate.count == 3
        """,
    ),
    "named like a builtin": (
        "def hash(text):\n    return len(text)\n",
        "assert hash('abc') == 3",
    ),
    "unittest": (
        "def double(x):\n    return 2 * x",
        """
        import unittest
        class TestDouble(unittest.TestCase):
            def test_it(self):
                self.assertEqual(double(2), 4)
            def test_sub(self):
                for x in range(3):
                    with self.subTest(x=x):
                        self.assertAlmostEqual(double(x), x + x)
        if __name__ == '__main__':
            unittest.main()
        """,
    ),
    "async": (
        "import asyncio\nasync def later(x):\n    await asyncio.sleep(0.001)\n    return x + 1\n"
        "async def both(f):\n    return await asyncio.gather(later(1), later(2))",
        """
        import asyncio
        assert asyncio.run(later(1)) == 2
        async def main():
            return await later(2), await asyncio.gather(later(3), later(4))
        assert asyncio.run(main()) == (3, [4, 5])
        """,
    ),
    "deep and large": (
        "def nest(n):\n    x = []\n    for _ in range(n):\n        x = [x]\n    return x\n"
        "def squares(n):\n    return [i * i for i in range(n)]\nimport sys\nsys.setrecursionlimit(5000)\n"
        "def fact(n):\n    return n * fact(n - 1) if n else 1",
        """
        import math
        x, depth = nest(5000), 0
        while x:
            x, depth = x[0], depth + 1
        assert depth == 5000
        assert squares(100000) == [i * i for i in range(100000)]
        assert fact(2000) == math.factorial(2000)
        for i in range(2000):
            assert squares(i % 7) == [j * j for j in range(i % 7)]
        """,
    ),
    "a cache": (
        """
        class LRU:
            def __init__(self, size):
                self.size, self.data = size, {}
            def get(self, key):
                if key not in self.data:
                    return -1
                self.data[key] = self.data.pop(key)
                return self.data[key]
            def put(self, key, value):
                self.data.pop(key, None)
                self.data[key] = value
                if len(self.data) > self.size:
                    del self.data[next(iter(self.data))]
            def __contains__(self, key):
                return key in self.data
        """,
        """
        c = LRU(2)
        c.put(1, 'a')
        c.put(2, 'b')
        assert c.get(1) == 'a'
        c.put(3, 'c')
        assert c.get(2) == -1 and 1 in c and 2 not in c
        """,
    ),
    "generic classes": (
        "from typing import Generic, TypeVar\nT = TypeVar('T')\nclass Stack(Generic[T]):\n"
        "    def __init__(self):\n        self.items: list[T] = []\n"
        "    def push(self, x: T) -> None:\n        self.items.append(x)",
        "s = Stack[int]()\ns.push(1)\nassert s.items == [1] and isinstance(s, Stack)",
    ),
    "annotations of the future": (
        "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\n"
        "class Node:\n    next: Node | None = None",
        "assert Node(Node()).next == Node()",
    ),
    "a class with its own dict": (
        """
        class Lower(dict):
            def __setitem__(self, key, value):
                super().__setitem__(key.lower(), value)
            def __getitem__(self, key):
                return super().__getitem__(key.lower())
            def __missing__(self, key):
                return 0
        class Matrix:
            def __init__(self, rows):
                self.rows = rows
            def __matmul__(self, other):
                return Matrix([[sum(a * b for a, b in zip(r, c)) for c in zip(*other.rows)] for r in self.rows])
            def __getitem__(self, at):
                return self.rows[at[0]][at[1]] if isinstance(at, tuple) else self.rows[at]
            def __setitem__(self, at, value):
                self.rows[at[0]][at[1]] = value
        """,
        """
        d = Lower()
        d['A'] = 1
        assert d['a'] == 1 and d['A'] == 1 and dict(d) == {'a': 1}
        m = Matrix([[1, 2], [3, 4]]) @ Matrix([[0, 1], [1, 0]])
        assert m.rows == [[2, 1], [4, 3]] and m[0, 1] == 1 and m[1] == [4, 3]
        m[0, 0] = 9
        assert m.rows[0] == [9, 1]
        """,
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_a_right_program_passes(name: str) -> None:
    source, test = map(textwrap.dedent, HONEST[name])
    right = f"```python\n{source}\n```"
    assert values(Code(tests=(test,), seconds=30), right) == [1]
