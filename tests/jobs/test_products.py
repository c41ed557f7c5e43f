"""A product that is made anew is whole, old or new, whenever the command is killed."""

import json
import subprocess
import sys

OLD, NEW = dict.fromkeys("abc", "old"), dict.fromkeys("abc", "new")
MAKE = """
import json, os, signal, sys
from pathlib import Path
from jobs.products import new_folder

steps = None


def die_in_time(event, _):
    global steps
    if steps and event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "open"):
        steps -= 1
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(die_in_time)
seen, code = [], None
while code != 0:
    place = Path(sys.argv[1]) / str(len(seen)) / "maps"
    place.mkdir(parents=True)
    for name in "abc":
        (place / name).write_text("old")
    child = os.fork()
    if child == 0:
        steps = len(seen) + 1
        with new_folder(place) as folder:
            for name in "abc":
                (folder / name).write_text("new")
        os._exit(0)
    code = os.waitpid(child, 0)[1]
    found = place.exists() and {path.name: path.read_text() for path in place.iterdir()}
    seen.append([code, found, sorted(os.listdir(place.parent))])
print(json.dumps(seen))
"""


def test_a_kill_at_any_step_leaves_the_old_product_the_new_one_or_none(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MAKE, tmp_path], capture_output=True, check=True, timeout=300
    )
    *killed, whole = json.loads(done.stdout)
    assert whole == [0, NEW, ["maps"]]
    assert {code for code, *_ in killed} == {9}
    assert killed[0][1] == OLD
    assert killed[-1][1] == NEW
    assert [found for _, found, _ in killed if found not in (OLD, NEW, False)] == []
