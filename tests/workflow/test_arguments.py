"""What has no bound in size reaches a script through a file, never by the command line."""

import ast
import json
import re
from pathlib import Path

import pytest
from checkout import ROOT, copy_checkout

RULES = sorted((ROOT / "workflow/rules").glob("*.smk"))


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_no_program_is_started_with_what_has_no_bound(path: Path) -> None:
    """JSON of settings, and lists of files that grow with the grid."""
    rules = path.read_text()
    blocks = re.findall(r"^ +shell:\n((?: +.*\n)+?)(?=\n|\Z)", rules, re.M)
    assert len(blocks) == rules.count("shell:\n")
    for block in blocks:
        command = ast.literal_eval(f"({block})")
        written, _, started = command.rpartition("exec ")
        unbounded = r"{params\.(?!python)\w+:q}|{input\.(?:scores|published)}|{\w+\.exclude}"
        assert not re.findall(unbounded, started), command
        files = re.findall(r"> ({\S+args);", written)
        assert all(f" @{file} " in started for file in files), command


def test_prompts_and_tables_of_a_huge_configuration_are_made(tmp_path: Path) -> None:
    """Two lists of 420 Chinese prompts: more than a command line holds, for prompts and tables."""
    checkout = copy_checkout(tmp_path)
    lists = {
        name: [f"{number} {name} 一只猫坐在窗边看雨" + "雪" * 150 for number in range(420)]
        for name in ("train", "validation")
    }
    demo = (tmp_path / "config/demo.yaml").read_text().replace("name: demo", "name: huge")
    before, after = demo.partition("prompts:\n")[0], demo.partition("\nrewards:")[2]
    sets = {name: {"source": texts} for name, texts in lists.items()}
    (tmp_path / "huge.yaml").write_text(f"{before}prompts: {json.dumps(sets)}\nrewards:{after}")
    done = checkout.snakemake("prompts", "table3", "--cores", "1", "--configfile", "huge.yaml")
    assert done.returncode == 0, done.stderr
    for name, texts in lists.items():
        lines = (tmp_path / f"results/huge/prompts/{name}.jsonl").read_text().splitlines()
        assert [json.loads(line)["text"] for line in lines] == texts
    assert (tmp_path / "results/huge/tables/table3.csv").exists()
    arguments = (tmp_path / "results/huge/logs/render/table3.log.args").read_text()
    assert len(arguments) > 2**18  # a command line holds half of it in one argument
