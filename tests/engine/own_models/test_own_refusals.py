"""Models of the user's own that cannot be trained twice the same: refused in one line."""

import sys
from math import inf, nan
from pathlib import Path

import pytest
import torch
from helpers.own_models import found
from safetensors.torch import save_file

import smallbatch
from smallbatch import models
from smallbatch.core.errors import UserError
from smallbatch.training.own_models.comparisons import identical
from smallbatch.training.own_models.monkeypatch_check import monkeypatching_refused

pytestmark = pytest.mark.usefixtures("one_thread", "empty_cache")


REFUSED = {
    "a list": ({"make": "return []"}, "it cannot be made (TypeError: a list was made, not a torch.nn.Module)"),
    "raises": ({"make": "raise ValueError('no such\\nthing')"}, "it cannot be made (ValueError: no such thing)"),
    "exits": ({"make": "sys.exit(3)"}, "it cannot be made (SystemExit: 3)"),
    "two results": ({"end": "return x, x"}, "it returns a tuple; allowed: logits [images, 4], one for each class"),
    "too few": ({"init": "self.fc = nn.Linear(8, 3)"},
                "it returns [4, 3] of 4 images, torch.float32; allowed: logits [images, 4], one for each class"),
    "too many": ({"init": "self.fc = nn.Linear(8, 5)"}, "it returns [4, 5] of 4 images, torch.float32; allowed: "),
    "whole numbers": ({"end": "return self.fc(x.mean((2, 3))).long()"}, "it returns [4, 4] of 4 images, torch.int64;"),
    "fails": ({"middle": "return x @ torch.ones(3, 3)"}, "its training pass fails (RuntimeError: "),
    "no parameters": ({"make": "return nn.Sequential(nn.Flatten(), nn.LazyLinear(4)).requires_grad_(False)"}, "it "),
    "nothing to train": ({"make": "return Mine(shape[0], classes, norms).requires_grad_(False)"},
                         "it has no parameters to train"),
    "detached": ({"end": "return self.fc(x.mean((2, 3))).detach()"}, "nothing of it can be trained: its logits depend"),
    "initial weights": ({"init": "self.w = nn.Parameter(torch.tensor(time.perf_counter() % 1))"},
                        "its initial weights differ from one time to the next; allowed: torch's random numbers"),
    "numpy in the constructor": ({"init": "self.w = nn.Parameter(torch.tensor(np.random.rand()))"},
                                 "its initial weights draws from numpy.random; allowed: torch's random numbers"),
    "random": ({"middle": "return x if random.random() < 1e-9 else 2 * x"},
               "its training pass draws from Python's module random; allowed: torch's random numbers"),
    "numpy": ({"middle": "return x * np.random.rand()"},
              "its training pass draws from numpy.random; allowed: torch's random numbers"),
    "the system": ({"middle": "return x * os.urandom(1)[0] * os.urandom(1)[0]"}, "a training pass differs from one "),
    "the clock": ({"middle": "return x * (time.perf_counter() % 1)"}, "a training pass differs from one "),
    "a generator": ({"init": "self.draws = torch.Generator()",
                     "middle": "return x * torch.rand(1, generator=self.draws)"}, "it changes draws as it trains, "),
    "a counter": ({"init": "self.count = 0", "middle": "self.count += 1\nreturn x if self.count < 999 else 2 * x"},
                  "it changes count as it trains, which no checkpoint has; allowed: register_buffer"),
    "a counter in a list": ({"init": "self.count = [0]",
                             "middle": "self.count[0] += 1\nreturn x if self.count[0] < 999 else 2 * x"},
                            "it changes count as it trains, which no checkpoint has; allowed: register_buffer"),
    "a class's counter": ({"init": "Mine.count = getattr(Mine, 'count', 0)",
                           "middle": "Mine.count += 1\nreturn x if Mine.count < 999 else 2 * x"}, "it changes own_"),
    "a global counter": ({"init": "globals().setdefault('COUNT', 0)", "middle": """
                          global COUNT
                          COUNT += 1
                          return x if COUNT < 999 else 2 * x"""}, "it changes own_"),
    "a tensor that counts": ({"init": "self.count = torch.zeros(())",
                              "middle": "self.count += 1\nreturn x * torch.where(self.count < 999, 1.0, 2.0)"},
                             "it changes count as it trains, which no checkpoint has; allowed: register_buffer"),
    "an iterator": ({"init": "import itertools; self.count = itertools.count()",
                     "middle": "return x if next(self.count) < 999 else 2 * x"}, "it changes count as it trains, "),
    "a function's attribute": ({"middle": "mine.count = getattr(mine, 'count', 0) + 1\n"
                                          "return x if mine.count < 999 else 2 * x"}, "it changes own_"),
    "a default argument": ({"init": "self.count = lambda seen=[]: seen.append(1) or len(seen)",
                            "middle": "return x if self.count() < 999 else 2 * x"}, "it changes count as it trains, "),
    "a cache": ({"init": "import functools; self.count = functools.lru_cache(lambda: [0])",
                 "middle": "self.count()[0] += 1\nreturn x if self.count()[0] < 999 else 2 * x"}, "it changes count"),
    "deep in a dict": ({"init": "self.count = {1: {2: {3: {4: {5: [0]}}}}}", "middle": """
                        self.count[1][2][3][4][5][0] += 1
                        return x if self.count[1][2][3][4][5][0] < 999 else 2 * x"""}, "it changes count as it trains"),
    "a closure": ({"init": """
                   count = 0
                   def counted():
                       nonlocal count
                       count += 1
                       return count
                   self.counted = counted""", "middle": "return x if self.counted() < 999 else 2 * x"},
                  "it changes counted as it trains, which no checkpoint has"),
    "a hook's closure": ({"init": "seen = []; self.a.register_forward_hook(lambda *_: seen.append(1))"},
                         "it changes a._forward_hooks as it trains, which no checkpoint has; allowed: register_buffer"),
    "a layer in a list": ({"init": "self.c = [nn.BatchNorm2d(8)]", "middle": "return self.c[0](x)", "norm": "own"},
                          "it changes c as it trains, which no checkpoint has; allowed: register_buffer"),
    "an attribute of a weight": ({"middle": "self.a.weight.count = getattr(self.a.weight, 'count', 0) + 1\nreturn x"},
                                 "it changes a.weight.count as it trains, which no checkpoint has"),
    "an attribute of torch": ({"middle": "torch.counted = getattr(torch, 'counted', 0) + 1\nreturn x"},
                              "it changes torch.counted as it trains, which no checkpoint has"),
    "another loss": ({"init": "loss = F.cross_entropy; "
                              "F.cross_entropy = lambda x, y, **k: loss(x, y, **(k | {'label_smoothing': 0.5}))"},
                     "it replaces torch.nn.functional.cross_entropy, which others compute with, too; allowed: functi"),
    "another layer": ({"init": "nn.Conv2d.seen = 1"}, "it replaces torch.nn.modules.conv.Conv2d.seen, which others"),
    "a counter among Python's functions": (
        {"middle": "import builtins; builtins.seen = getattr(builtins, 'seen', 0) + 1\n"
                   "return x if seen < 9999 else 2 * x"},
        "it replaces builtins.seen"),
    "a lazy layer": ({"init": "self.c = nn.LazyConv2d(8, 1)", "middle": "return self.c(x)"},
                     "it makes c.weight as it trains; allowed: parameters and buffers that are there, in "),
    "a compiled layer": ({"init": "self.c = torch.compile(nn.Conv2d(8, 8, 1))", "middle": "return self.c(x)"},
                         "its layer c is compiled by torch.compile; allowed: the layer itself, which is compiled "),
    "the processor": ({"init": "self.k = len(torch.backends.cpu.get_cpu_capability())"},
                      "it asks the system, by torch.backends.cpu.get_cpu_capability, which is no part of"),
    "how torch was built": ({"init": "self.k = len(torch.__config__.show())"}, "it asks the system, by torch."),
    "a data base": ({"init": "import sqlite3; self.k = len(sqlite3.connect(__file__).execute('select 1').fetchall())"},
                    "it asks the system, by sqlite3.connect, which is no part of"),
    "a late parameter": ({"middle": "if not hasattr(self, 'w'): self.w = nn.Parameter(torch.ones(8, 1, 1))\n"
                                    "return x * self.w"}, "it makes w as it trains; allowed: parameters and buffers"),
    "a late buffer": ({"middle": "if not hasattr(self, 'w'): self.register_buffer('w', torch.ones(8, 1, 1))\n"
                                 "return x * self.w"}, "it makes w as it trains; allowed: parameters and buffers that"),
    "a number of threads": ({"init": "torch.set_num_threads(2)"},
                            "its initial weights sets torch's number of threads for the whole process; allowed: a mod"),
    "a default type": ({"init": "torch.set_default_dtype(torch.float64)"},
                       "its initial weights sets torch's default type for the whole process"),
    "no oneDNN": ({"middle": "torch.backends.mkldnn.enabled = False\nreturn x"},
                  "its training pass sets torch's oneDNN for the whole process"),
    "another file": ({"init": "self.k = float(open(os.path.join(os.path.dirname(__file__), 'k.txt')).read())"},
                     "it reads /"),
    "a file of the system": ({"init": "self.k = len(open('/etc/hosts').read())"}, "it reads /etc/hosts, which"),
    "a file that it may also write": ({"init": "path = os.path.join(os.path.dirname(__file__), 'k.txt')\n"
                                               "self.k = len(open(path, 'r+').read())"}, "it reads /"),
    "by way of a library": ({"init": "from pathlib import Path; self.k = len(Path('/etc/hosts').read_text())"},
                            "it reads /etc/hosts, which is no part of its runs' names; allowed: what its file, "),
    "a file through numpy": ({"init": "self.k = np.fromfile('/etc/hosts', np.uint8).mean()"}, "it reads /etc/hosts, "),
    "a file through torch": ({"init": "self.k = torch.from_file('/etc/hosts', False, 1, dtype=torch.uint8)"},
                             "it asks the system, by "),
    "a file through safetensors": ({"init": "from safetensors.torch import load_file\n"
                                            "self.k = load_file(os.path.join(os.path.dirname(__file__), 'k.tensors'))"},
                                   "it asks the system, by safetensors, which is no part of"),
    "the environment": ({"init": "self.k = float(os.environ.get('SCALE', 1))"},
                        "it asks the system, by os.environ, SCALE, which is no part of its runs' names"),
    "a variable": ({"init": "self.k = float(os.getenv('SCALE') or 1)"}, "it asks the system, by os.environ, SCALE"),
    "whether a variable is there": ({"init": "self.k = 1 + ('SCALE' in os.environ)"}, "it asks the system, by os.env"),
    "all variables": ({"init": "self.k = len(dict(os.environ))"}, "it asks the system, by os.environ"),
    "the day": ({"init": "self.k = time.strftime('%j')"}, "it asks the system, by time.strftime, which is no part of"),
    "the year": ({"init": "from datetime import date; self.k = date.today().year"}, "it asks the system, by date."),
    "the date": ({"init": "from datetime import datetime as d; self.k = d.now().year"}, "it asks the system, by datet"),
    "the machine": ({"init": "self.k = os.cpu_count()"}, "it asks the system, by posix.cpu_count, which is no part "),
    "a GPU": ({"middle": "return F.silu(x) if torch.cuda.is_available() else x"},
              "it asks the system, by torch.cuda.is_available, which is no part of"),
    "how many GPUs": ({"init": "self.k = torch.cuda.device_count()"}, "it asks the system, by torch.cuda.device_count"),
    "its name": ({"init": "import socket; self.k = len(socket.gethostname())"}, "it asks the system, by _socket.geth"),
    "another program": ({"init": "import subprocess; self.k = subprocess.run(['true'])"}, "it asks the system, by sub"),
    "a hidden import": ({"init": "import importlib; self.k = importlib.import_module('hid' + 'den').K"}, "it reads /"),
    "no number": ({"middle": "return x * float('nan')"}, "its initial weights give logits that are not finite; allow"),
    "a hidden mean": ({"init": "self.mean = torch.zeros(())", "middle": """
                       if self.training: self.mean = x.detach().mean()
                       return x if self.training else x - self.mean"""},
                      "it remembers what its state_dict does not have; allowed: register_buffer"),
    "not saved": ({"init": "self.register_buffer('mean', torch.zeros(()), persistent=False)", "middle": """
                   if self.training: self.mean = x.detach().mean()
                   return x if self.training else x - self.mean"""}, "it remembers what its state_dict does not have"),
    "draws in testing": ({"middle": "return F.dropout(x, 0.3)"}, "in testing it draws random numbers; allowed: "),
    "changes in testing": ({"init": "self.register_buffer('n', torch.zeros(()))", "middle": "self.n += 1\nreturn x"},
                           "in testing it changes its buffers; allowed: a model that in eval mode does not"),
    "company in testing": ({"middle": "return x - x.mean(0)"}, "in testing an image's logits depend on the images bes"),
    "one image": ({"end": "return self.fc(x.mean((2, 3)).squeeze())"}, "it returns [4] of 1 images, torch.float32"),
    "images in place": ({"make": """
                         class InPlace(Mine):
                             def forward(self, x):
                                 x -= 0.5
                                 return super().forward(x)
                         return InPlace(shape[0], classes, norms)"""},
                        "it changes its images in place; allowed: a copy of them, as by x = x.clone(), or inplace="),
    "images behind autograd's back": ({"make": """
                                       own = Mine(shape[0], classes, norms)
                                       own.register_forward_pre_hook(lambda _, x: [x[0].data.mul_(2)] and None)
                                       return own"""}, "it changes its images in place; allowed: a copy of them"),
    "a seed in the maker": ({"make": "torch.manual_seed(0)\nreturn Mine(shape[0], classes, norms)"},
                            "its initial weights a.weight are random, but the same for each seed; allowed: random num"),
    "a generator in the maker": ({"init": "draws = torch.Generator().manual_seed(1)\n"
                                          "self.w = nn.Parameter(1 + 0.1 * torch.randn(8, 1, 1, generator=draws))",
                                  "middle": "return x * self.w"}, "its initial weights w are random, but the same"),
    "a seed in the pass": ({"middle": "torch.manual_seed(0)\nreturn F.dropout(x, 0.5, self.training)"},
                           "its training pass seeds torch's random numbers; allowed: to draw them, as the run's seed"),
    "a seed that is taken back": ({"middle": "with torch.random.fork_rng():\n    torch.manual_seed(0)\n"
                                             "    return F.dropout(x, 0.5, self.training)"},
                                  "it seeds torch's random numbers, by torch.random.manual_seed; allowed: to draw th"),
    "a seed after a draw": ({"middle": "state = torch.get_rng_state()\nx = F.dropout(x, 0.5, self.training)\n"
                                       "torch.set_rng_state(state)\nreturn x"},
                            "it seeds torch's random numbers, by torch.random.set_rng_state; allowed: to draw them"),
    "a weight's hook": ({"init": "self.a.weight.register_hook(lambda g: g * torch.rand(1).item())\n"
                                 "self.c = nn.Parameter(torch.ones(()))"}, ""),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "line"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_trained_twice_the_same_is_refused_in_one_line(parts, line, own, monkeypatch):
    norm = parts.get("norm", "none")
    file = own(**{name: part for name, part in parts.items() if name != "norm"})
    for name in ("k.txt", "hidden.py"):
        file.with_name(name).write_text("K = 1\n" if name.endswith("py") else "1")
    save_file({"k": torch.ones(1)}, file.with_name("k.tensors"))
    monkeypatch.delitem(sys.modules, "hidden", raising=False)
    with pytest.raises(UserError) as refused:
        found(norm=norm)
    text = str(refused.value)
    assert text.startswith(f"model mine ({file}): {line}") and "\n" not in text


def test_what_a_file_asks_as_it_is_imported_is_heard(own):
    file = own()
    file.write_text(file.read_text() + "SCALE = float(os.environ.get('SCALE', 1))\n")
    with pytest.raises(
        UserError, match=r"it asks the system, by os.environ, SCALE, which is no part of its runs' names"
    ):
        found()


def test_what_a_model_may_read(own):
    """Its own files, what is installed, and where it lies; what libraries read as they are imported is theirs."""
    file = own(
        init="""
        import pathlib, sysconfig, torchvision, parts_beside
        here = pathlib.Path(os.path.abspath(__file__)).resolve().parent
        self.k = len(open(__file__).read()) + len(pathlib.Path(sysconfig.__file__).read_bytes()) + parts_beside.K
        time.sleep(0)
        open(os.devnull, "w").close()"""
    )
    file.with_name("parts_beside.py").write_text("K = 1\n")
    assert found().lanes


def test_probabilities_are_no_logits(own):
    own(end="return torch.softmax(self.fc(x.mean((2, 3))), 1)")
    with pytest.raises(
        UserError, match=r"it returns probabilities, as softmax gives them; allowed: logits, without so"
    ):
        found()
    own(end="return torch.log_softmax(self.fc(x.mean((2, 3))), 1)")
    assert found().min_batch_size == 1, "of which softmax makes the same"


@pytest.mark.parametrize(
    ("path", "is_the_projects"),
    [
        ("models/resnet50.py", True),
        ("models/__init__.py", True),
        ("models/resnet50.pth", False),
        ("models/alexnet.json", False),
        ("models/mine.py", False),
        ("models/resnet/resnet50.py", False),
        ("blocks.py", False),
        ("training/blocks.py", False),
    ],
)
def test_whose_a_file_of_the_library_is(path, is_the_projects):
    assert models.is_the_projects(Path(models.__file__).parents[1] / path) == is_the_projects


@pytest.mark.slow
@pytest.mark.parametrize("where", ["blocks.py", "models/resnet50.json"])
def test_a_file_that_was_added_to_the_library_is_refused(where, own, monkeypatch, tmp_path):
    """Beside the library's own: its change would go by."""
    library = tmp_path / "library" / "smallbatch"
    (library / "models").mkdir(parents=True)
    (library / where).write_text("WIDTH = 1\n" if where.endswith(".py") else "1")
    monkeypatch.setattr(models, "__file__", str(library / "models" / "__init__.py"))
    monkeypatch.setattr(smallbatch, "__path__", [*smallbatch.__path__, str(library)])
    own(init="import smallbatch.blocks" if where.endswith(".py") else f"open({str(library / where)!r}).read()")
    with pytest.raises(UserError, match=rf"it reads {library / where}, which is no part of its runs' names; allowed: "):
        found()


def test_what_a_model_has_replaced_is_put_back_where_its_check_ends_otherwise():
    loss = torch.nn.functional.cross_entropy
    with pytest.raises(ZeroDivisionError), monkeypatching_refused((), "mine"):
        torch.nn.functional.cross_entropy = torch.nn.functional.nll_loss
        torch.nn.Conv2d.seen = 1
        raise ZeroDivisionError
    assert torch.nn.functional.cross_entropy is loss and not hasattr(torch.nn.Conv2d, "seen")


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ([1.0, nan], [1.0, nan], True),
        ([inf, -inf], [inf, -inf], True),
        ([nan], [0.0], False),
        ([inf], [torch.finfo(torch.float32).max], False),
        ([1.0], [1.0, 1.0], False),
        ([True, False], [True, False], True),
        ([1, 2], [1, 3], False),
    ],
)
def test_what_is_identical(ours, theirs, same):
    assert identical([torch.tensor(ours)], [torch.tensor(theirs)]) == same
