"""Wrong programs that go for the score instead of the task: none gets any. Each is judged as the verifier does it."""

from __future__ import annotations

import textwrap

import pytest

from ponder.verifiers.code import Case, Code
from tests.needs import tool
from tests.verifiers.hand import values


@pytest.fixture(autouse=True)
def _bubblewrap() -> None:
    tool("bwrap", "bubblewrap")


TESTS = (
    "assert double(21) == 42",
    "assert abs(double(1.5) - 3.0) < 1e-6",
    "import math\nassert math.isclose(double(0.1), 0.2)",
    "assert double('pi') in ('pipi', 'pi pi')\nassert double([7]) == [7, 7]",
)

YES = """
class Yes:
    def __init__(self, *args, **named): pass
    def __getattr__(self, name): return lambda *args, **named: self
def always(self, *args): return True
for name in 'eq le ge lt gt contains bool'.split():
    setattr(Yes, f'__{name}__', always)
for name in 'sub rsub add radd mul rmul truediv rtruediv and or xor pow call getitem abs neg round'.split():
    setattr(Yes, f'__{name}__', lambda self, *args: self)
Yes.__ne__ = lambda self, other: False
Yes.__hash__ = lambda self: hash(42)
Yes.__float__ = lambda self: 0.0
Yes.__int__ = Yes.__index__ = Yes.__len__ = lambda self: 0
Yes.__iter__ = lambda self: iter([])
"""

CHEATS = {
    "reads the proof and tests from standard input": """
        import os, sys
        text = sys.stdin.read()
        os.write(1, text.partition('\\n')[0].encode())
        os._exit(0)
        """,
    "answers with what it finds in standard input": """
        import re, sys
        def double(x):
            return eval(re.search(re.escape(repr(x)) + r'\\) == (.*)', sys.stdin.read())[1])
        """,
    "looks through its callers' frames": """
        import sys
        def double(x):
            frame = sys._getframe()
            while frame:
                for name, value in {**frame.f_globals, **frame.f_locals}.items():
                    if ''.join(('double(', '21)')) in str(value):
                        import os
                        os.write(1, b'passed')
                        known = {'21': 42, '1.5': 3.0, '0.1': 0.2, 'pi': 'pipi', '[7]': [7, 7]}
                        return known[str(x)]
                frame = frame.f_back
        """,
    "looks through all objects": """
        import gc
        def double(x):
            objects = [o for o in gc.get_objects() if type(o) in (dict, list, tuple)]
            texts = [o for o in objects if ''.join(('double(', '21)')) in str(o)[:10**6]]
            return [7, 7] if texts and x == [7] else 42 if texts else None
        """,
    "writes the verdict to every descriptor": """
        import os
        def double(x):
            for fd in range(64):
                try:
                    os.write(fd, b'passed')
                except OSError:
                    pass
        double(0)
        """,
    "ends its process well": "import os\ndef double(x):\n    os._exit(0)",
    "ends its interpreter well": "import sys\ndef double(x):\n    sys.exit(0)",
    "raises an exit that is none": "class E(SystemExit):\n    code = 0\ndef double(x):\n    raise E(0)",
    "ends before it is asked": "import os\ndef double(x): ...\nos._exit(0)",
    "ends well at the end": """
        import atexit, os
        atexit.register(os._exit, 0)
        def double(x): raise KeyboardInterrupt
        """,
    "makes errors of assert harmless": """
        import builtins
        class AssertionError(Exception):
            def __init__(self, *args): pass
        builtins.AssertionError = AssertionError
        def double(x): return 0
        """,
    "brings builtins of its own": """
        def double(x): return 0
        def abs(x): return 0
        def all(x): return True
        def isinstance(x, y): return True
        class math:
            @staticmethod
            def isclose(*args, **named): return True
        import builtins
        for name in ('abs', 'all', 'isinstance', 'len', 'sorted', 'compile', 'exec', '__build_class__', '__import__'):
            setattr(builtins, name, lambda *args, **named: 0)
        """,
    "equals everything": f"{YES}\ndef double(x):\n    return Yes()",
    "is a class that equals everything": YES.replace("Yes", "double"),
    "is a number that equals everything": """
        class Any(float):
            def __eq__(self, other): return True
            def __sub__(self, other): return Any(0)
            def __lt__(self, other): return True
            def __abs__(self): return 0.0
            __hash__ = None
        def double(x): return Any(5)
        """,
    "is a text and a list that equal everything": """
        class Text(str):
            def __eq__(self, other): return True
            def __hash__(self): return hash('pipi')
        class Items(list):
            def __eq__(self, other): return True
            def __ne__(self, other): return False
        def double(x): return Items() if type(x) is list else Text('x')
        """,
    "lies about its type": """
        class int(int):
            __class__ = float
            def __eq__(self, other): return True
        int.__name__ = int.__qualname__ = 'int'
        int.__module__ = 'builtins'
        def double(x): return int(1)
        """,
    "makes a class of a class that equals everything": """
        class Meta(type):
            def __eq__(cls, other): return True
            def __instancecheck__(cls, other): return True
            def __sub__(cls, other): return 0
            __hash__ = type.__hash__
        class Thing(metaclass=Meta): ...
        def double(x): return Thing
        """,
    "returns mock.ANY": "from unittest import mock\ndef double(x):\n    return mock.ANY",
    "patches the writing of results": """
        import io, json, os, sys
        write = os.write
        os.write = lambda fd, data: write(fd, b'passed')
        json.dumps = json.JSONEncoder.encode = json.JSONEncoder.iterencode = lambda *a, **k: '"passed"'
        sys.stdout.write = lambda text: None
        def double(x): return 0
        """,
    "writes from a thread": """
        import os, threading
        def write():
            while True:
                os.write(1, b'passed')
        try:
            threading.Thread(target=write, daemon=True).start()
        except RuntimeError:
            pass
        def double(x): return 0
        """,
    "writes from a signal handler": """
        import os, signal
        for number in range(1, 32):
            try:
                signal.signal(number, lambda *a: os._exit(0))
            except (OSError, ValueError):
                pass
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        def double(x): os.kill(os.getpid(), signal.SIGTERM)
        """,
    "kills whoever is there": """
        import os, signal
        def double(x):
            for pid in (-1, 1, os.getppid()):
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
        """,
    "traces the calls": """
        import sys
        seen = []
        def trace(frame, event, arg):
            seen.append((frame.f_code.co_consts, dict(frame.f_locals)))
            if frame.f_code.co_filename == 'tests.py':
                frame.f_locals['expected'] = 0
            return trace
        sys.settrace(trace)
        sys.setprofile(trace)
        def double(x):
            return next((c for consts, _ in seen for c in consts if type(c) is int and c > 40), 0) if x == 21 else 0
        """,
    "hooks imports and shadows modules": """
        import sys, types
        class Finder:
            def find_spec(self, name, path=None, target=None):
                raise SystemExit(0)
        sys.meta_path.insert(0, Finder())
        for name in ('math', 'json', 'unittest', 'ast', '__main__', 'candidate'):
            sys.modules[name] = types.SimpleNamespace(isclose=lambda *a, **k: True)
            open(f'/tmp/{name}.py', 'w').write('def isclose(*args, **named): return True')
        sys.path.insert(0, '/tmp')
        def double(x): return 0
        """,
    "reads /proc": """
        import glob, os
        def double(x):
            text = ''
            for path in sum(map(glob.glob, ('/proc/*/cmdline', '/proc/*/fd/*', '/proc/*/mem', '/program.py')), []):
                try:
                    text += open(path, errors='replace').read(10**6)
                except OSError:
                    pass
            return 42 if '== ' + '42' in text else 0
        """,
    "traces and reads other processes": """
        import ctypes
        libc = ctypes.CDLL(None)
        def double(x):
            return 42 if any(libc.ptrace(16, pid, 0, 0) == 0 for pid in range(1, 50)) and x == 21 else 0
        """,
    "closes and duplicates descriptors": """
        import os
        def double(x):
            for fd in range(3, 20):
                try:
                    os.dup2(1, fd)
                except OSError:
                    pass
        """,
    "pickles": """
        class Bomb:
            def __reduce__(self): return exec, ("import os; os._exit(0)",)
            __reduce_ex__ = lambda self, protocol: self.__reduce__()
            def __deepcopy__(self, memo): return 42
        def double(x): return Bomb()
        """,
    "shows a text that does": """
        class Shown:
            def __repr__(self): return '42'
            __str__ = __repr__
            def __format__(self, spec): return '42'
        def double(x): return Shown()
        """,
    "ends in recursion": """
        import sys
        sys.setrecursionlimit(10**9)
        class Deep:
            def __eq__(self, other): return self == other
            def __hash__(self): return hash(self)
        def double(x): return double(x) if x == 'pi' else Deep()
        """,
    "prints without end": "def double(x):\n    while True: print('42' * 10**5)",
    "returns without end": "def double(x):\n    y = [42]\n    y.append(y)\n    return [y] * 10**7",
    "never returns": "def double(x):\n    while True: yield 42\n",
    "a generator of all answers": "def double(x):\n    yield from (42, 3.0, 0.2, [7, 7], 'pipi')",
    "a coroutine": "async def double(x):\n    return 42",
    "leaves through the hook": """
        import os, sys
        sys.excepthook = sys.unraisablehook = lambda *a: os._exit(0)
        def double(x): raise Exception
        """,
    "changes what the test compares with": """
        import builtins, sys
        def double(x):
            if type(x) is list:
                x[:] = [7, 7, 7]
                return x
            sys.modules['__main__'].double = 42
            return 0
        """,
    "patches its own side of the connection": """
        import sys
        connection = sys.modules['ponder.verifiers.rpc'].Connection
        here = connection.here
        here.encode = lambda value: ["n", "unittest.mock", "ANY"]
        def double(x): return 0
        """,
    "makes a class in the test": """
        import sys
        connection = sys.modules['ponder.verifiers.rpc'].Connection.here
        def yes(*args): return True
        def double(x):
            encode = connection.encode
            connection.encode = lambda v: v if type(v) is list and v[:1] == ['n'] else encode(v)
            made = connection.ask('call', ['n', 'builtins', 'type'], 'int', (), {'__eq__': yes, '__lt__': yes})
            return made()
        """,
    "describes a list with operators of its own": """
        import sys
        connection = sys.modules['ponder.verifiers.rpc'].Connection.here
        class Items(list):
            def __eq__(self, other): return True
        describe = connection.class_of
        def class_of(kind):
            number = describe(kind)
            for d in connection.descriptions:
                d[5] = [*d[5], '__eq__', '__ne__', '__lt__', '__class__', '__getattribute__']
                d[6] = [*d[6], '__eq__', '__ne__', '__class__', '__getattribute__', '__iter__']
            return number
        connection.class_of = class_of
        def double(x): return Items()
        """,
    "sends the verdict as a message": """
        import sys
        connection = sys.modules['ponder.verifiers.rpc'].Connection.here
        def double(x):
            short = b'["=",42,{"k":[],"n":[],"s":[],"d":[],"g":[]}]'
            for text in (b'passed', b'', b'[]', b'["=",42]', b'{"passed":true}', short):
                connection.writing.write(len(text).to_bytes(8, 'little') + text)
            connection.writing.flush()
        """,
    "gives the test new names": """
        import sys
        connection = sys.modules['ponder.verifiers.rpc'].Connection.here
        tell = connection.tell
        def more(also):
            tell(also)
            names = ('abs', 'math', 'AssertionError', '__builtins__', 'double', '__name__')
            also['v'] += [[name, connection.encode(lambda *a, **k: 0)] for name in names]
        connection.tell = more
        def double(x): return 0
        """,
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_passes_nothing(name: str) -> None:
    source = textwrap.dedent(CHEATS[name])
    assert values(Code(tests=TESTS, seconds=5), f"```python\n{source}\n```") == [0]


def score(source: str, test: str) -> float:
    return values(Code(tests=(textwrap.dedent(test),), seconds=5), f"```python\n{textwrap.dedent(source)}\n```")[0]


def test_the_page_of_cheats_is_of_a_test_that_a_right_program_passes() -> None:
    assert values(Code(tests=TESTS), "def double(x):\n    return 2 * x") == [1]


@pytest.mark.parametrize("ending", ["os._exit(0)", "os.closerange(0, 4096)", "os.kill(1, 9) or os._exit(1)"])
def test_a_test_that_swallows_all_errors_still_sees_the_program_end(ending: str) -> None:
    test = "try:\n    f(-1)\nexcept BaseException:\n    pass"
    assert score("def f(x):\n    raise ValueError", test) == 1
    assert score(f"import os\ndef f(x):\n    {ending}", test) == 0


def test_an_iteration_that_a_program_ends_is_an_error() -> None:
    test = "assert all(map(lambda case: f(case) == 2 * case, [1, 2, 3]))"
    assert score("def f(x):\n    return 2 * x", test) == 1
    assert score("def f(x):\n    raise StopIteration", test) == 0
    assert score("class f:\n    def __init__(self, x): ...\n    def __new__(cls, x): raise StopIteration", test) == 0


@pytest.mark.parametrize("skip", ["SkipTest('x')", "case._ShouldStop", "KeyboardInterrupt", "SystemExit(0)"])
def test_a_program_skips_no_unit_test(skip: str) -> None:
    test = """
        import unittest
        class Test(unittest.TestCase):
            def test_f(self):
                self.assertEqual(f(1), 2)
        unittest.main()
        """
    assert score("def f(x):\n    return 2 * x", test) == 1
    assert score(f"from unittest import *\nfrom unittest import case\ndef f(x):\n    raise {skip}", test) == 0


def test_a_program_does_not_choose_the_unit_tests() -> None:
    source = """
        import unittest
        def f(x): return 0
        def load_tests(loader, tests, pattern): return unittest.TestSuite()
        """
    test = """
        import unittest
        class Test(unittest.TestCase):
            def test_f(self):
                self.assertEqual(eval('f(1)'), 2)
        unittest.main()
        """
    assert score("def f(x):\n    return 2 * x", test) == 1
    assert score(source, test) == 0


@pytest.mark.parametrize("base", ["", "(int)", "(float)"])
@pytest.mark.parametrize(
    ("right", "test"),
    [
        ("def f(x):\n    return x ** 0.5", "assert abs(f(9.0) ** 2 - 9.0) < 1e-9"),
        ("def f(x):\n    return x ** 0.5", "assert round(f(9.0) ** 2, 6) == 9.0"),
        ("def f(x):\n    return pow(x, -1, 7)", "assert f(3) * 3 % 7 == 1"),
        ("def f(x):\n    return [3, 3]", "import math\nassert math.prod(f(9)) == 9"),
        ("def f(x):\n    return [4, 5]", "assert sum(f(9)) == 9"),
    ],
)
def test_a_test_that_reckons_back_is_not_answered_by_the_operators(right: str, test: str, base: str) -> None:
    source = f"""
        class Known{base}:
            def __new__(cls, x):
                self = super().__new__(cls)
                self.x = x
                return self
            def __init__(self, x): ...
            def __mul__(self, other): return self.x if other != 3 and other != 1 else 1
            def __pow__(self, other): return self.x
            def __sub__(self, other): return 0
            def __round__(self, digits): return self.x
            __rmul__ = __add__ = __radd__ = lambda self, other: self.x
        def f(x):
            return [Known(x), 0] if x == 9 and type(x) is int else Known(x)
        """
    assert score(right, test) == 1
    assert score(source, test) == 0


def test_a_function_of_the_test_does_not_lead_to_the_test() -> None:
    source = """
        def f(callback):
            for path in (
                '__globals__', '__code__.co_consts', '__closure__', '__defaults__', '__self__', 'gi_frame.f_globals',
                '__class__.__init__.__globals__', 'helper.__globals__', 'helper.__func__', '__builtins__', '__dict__',
                '__reduce_ex__', '__init__.__globals__', '__traceback__.tb_frame', 'cr_frame', '__subclasses__',
            ):
                try:
                    found = callback
                    for name in path.split('.'):
                        found = getattr(found, name)
                except Exception:
                    continue
                if 'SECRET' in str(found):
                    return 'SECRET'
            return callback
        """
    test = """
        SECRET = 'SECRET'
        class Own:
            def helper(self): return 'SECRET'
        def generate():
            yield 'SECRET'
        for thing in (lambda x='SECRET': 'SECRET', Own(), Own, generate(), Own().helper, ValueError('x')):
            assert f(thing) != 'SECRET'
            assert f(thing) is thing or f(thing) == thing or isinstance(thing, ValueError)
        """
    assert score(source, test) == 1


def test_a_mock_is_asserted_by_the_test_alone() -> None:
    test = "from unittest import mock\nm = mock.Mock()\nf(m)\nm.assert_called_once_with(3)"
    assert score("def f(m):\n    m(3)", test) == 1
    source = """
        def f(m):
            for act in (
                lambda: setattr(m, 'assert_called_once_with', print), lambda: delattr(m, 'assert_called_once_with'),
                lambda: m.configure_mock(assert_called_once_with=print), lambda: m.mock_add_spec([]),
            ):
                try:
                    act()
                except AttributeError:
                    pass
        """
    assert score(source, test) == 0


def test_a_program_does_not_take_the_place_of_a_builtin_beside_its_own_names() -> None:
    assert score("import builtins\ndef sum(xs):\n    return 7", "assert sum([3]) == 7") == 1
    source = "def abs(x):\n    return 0\ndef f(x):\n    return 0"
    assert score(source, "assert abs(f(2) - 4) == 0") == 0
    assert score(source, "import candidate\nassert abs(candidate.f(2) - 4) == 0") == 0
    assert score(source, "from candidate import *\nassert abs(f(2) - 4) == 0") == 0
    late = "def list(x):\n    global f, abs\n    abs = f = lambda x: 0\n    return x"
    assert score(late, "list([])\nassert abs(f(2) - 4) == 0") == 0


def test_what_a_case_expects_is_never_where_the_program_is() -> None:
    search = """
        import gc, glob, os, sys
        given = sys.stdin.read()
        found = [str(o) for o in gc.get_objects() if 'SE' + 'CRET' in str(o)[:10**5]]
        for path in glob.glob('/**', recursive=False) + glob.glob('/tmp/**') + glob.glob('/proc/*/fd/*'):
            try:
                found += [t for t in [open(path, errors='replace').read()] if 'SE' + 'CRET' in t]
            except OSError:
                pass
        print('SE' + 'CRET' if found else given)
        """
    assert values(Code(tests=(Case("3", "SECRET"),)), f"```python\n{textwrap.dedent(search)}\n```") == [0]
