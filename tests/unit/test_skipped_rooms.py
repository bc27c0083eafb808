"""What code that the fingerprints follow takes from rooms that they skip.

An edit in a skipped room makes nothing run again, so nothing there may decide a number. Every name
that followed code imports from such a room stands here with the reason why that is so: a new one
has to be argued for, or moved to a room that is followed.
"""

import ast

import pytest

from rocm_core.plugins import KINDS, ROOT, module_of, names, source_of
from rocm_core.provenance import module_closure
from rocm_core.provenance.fingerprint import imports_of, is_skipped

REASONS = {
    "rocm_core.errors": {
        "UserError": "ends a job",
        "run": "prints a UserError and sets the exit status",
        "warn": "prints a sentence",
    },
    "rocm_core.reading": {
        "show": "spells a value in a refusal",
        "parse_json": "values of a text, whose content is in the params of the job",
    },
    "rocm_core.plugins": {
        "did_you_mean": "the end of an error message",
        "facts": "literals of plug-ins, which are in the settings of cells or in `render_code`",
        "load": "imports the module of a name; that module is in the fingerprint by its name",
        "module_of": "which module a name stands for: the same one is in the fingerprint",
        "names": "which plug-ins there are: the fingerprint of who asks holds them all",
        "require_known": "refuses a name that is unknown",
        "short_name": "a module's name without its room",
    },
    "rocm_core.configuration": {
        "BetaTarget": "values; the params of the job hold them",
        "Config": "values; the params of every rendering hold them",
        "Contest": "values; the params of the job hold them",
        "Ensemble": "values; the params of the job hold them",
        "GenerationSettings": "values; the params of the job hold them",
        "ProgressSettings": "values of what is shown of a training",
        "ModelSettings": "values; the params of the job hold them",
        "OPTIONAL": "leaves a setting out of params where it has no effect, at its default",
        "PromptSettings": "values; the params of the job hold them",
        "Scorers": "the type of a setting",
        "Search": "values; the params of the job hold them",
        "StudySettings": "values; the params of the job hold them",
        "TrainingSettings": "values; the params of the job hold them",
        "Whole": "the type of a setting",
        "items": "the length of a list of settings",
        "load_schema": "checks what a sweep may set",
        "number": "the bounds of a setting",
        "settings_class": "the settings that an algorithm's module defines, which is followed",
        "type_config": "types what the params of every rendering hold",
        "validate": "refuses what the schema forbids",
    },
    "rocm_core.provenance": {
        "CSV_OPTIONS": "which columns of scores are text",
        "CellFiles": "as Layout",
        "Layout": "where files are: a path that changes is a file that is missing",
        "SampleFiles": "as Layout",
        "atomic_write": "writes the bytes that it is given",
        "digest_of": "names the version of a state that is resumed",
        "hash_inputs": "records what is read, and refuses files that are not their manifests'",
        "files_in": "lists the files of a world that was made",
        "located": "where a file is whose content is in the params of the jobs that use it",
        "read_entry": "reads an input as it stands, which the manifest lists",
        "record_beside": "as Layout",
        "StudyFiles": "as Layout",
        "stands": "whether a job was done already: by these settings, code, weights and inputs",
        "sha256_file": "lists the files of a world that was made",
        "write_csv": "writes the values that it is given, spelled by the caller or by csv",
        "write_json": "writes the values that it is given",
        "write_manifest": "records what was made, and from what",
    },
    "rocm_core.commands.render": {
        "render": "calls the module of a name, which is in the fingerprint, and saves the result",
    },
    "rocm_core.jobs": {
        "Owner": "a type",
        "Progress": "shows what a training has computed",
        "keep": "links finished files, which `stands` then has to recognise",
        "restore": "as keep",
        "StateFolder": "keeps the state of a training; what is in it is the trainer's",
        "StopRequest": "whether to stop, which changes no number of a resumed training",
        "INTERRUPTED": "the exit status of a job that goes on later",
        "private_folder": "where compiled code is cached",
        "whole_number": "the threads or the memory of this machine, which no params hold either",
    },
    "rocm_core.weights": {
        "class_of": "which denoiser and chain a model has: the job's settings and code hold them",
        "check_weights": "refuses files that differ from their sha256",
        "fetch": "fetches weights, whose content is in the params of the jobs that use them",
        "files_of": "which files of weights to check",
        "mismatches": "compares names and shapes, for require_matching_keys",
        "require_finite": "refuses tensors that are not finite",
        "require_float_files": "refuses tensors of another type",
        "require_floats": "refuses tensors of another type",
        "require_matching_keys": "refuses tensors that do not fit",
        "require_recorded": "refuses files that no record lists",
        "table": "which prompt lists are benchmarks, never to be trained on",
    },
}

# What the settings' classes have beside their fields: it may decide numbers that no params hold.
MEMBERS = {
    "Settings": {"to_dict", "from_dict"},
    "PromptSettings": set(),
    "GenerationSettings": set(),
    "CellSettings": set(),
    "TrainingSettings": {"weights"},
    "StudySettings": set(),
    "Contest": set(),
    "Config": {"root", "members", "scorer_paths", "_text", "model_copy", "__eq__", "__hash__"},
}


@pytest.fixture(scope="module")
def followed():
    """Every module and script that some job's fingerprint holds."""
    scripts = [f"workflow/scripts/{file.name}" for file in (ROOT / "workflow/scripts").glob("*.py")]
    plugins = [module_of(kind, name, kind) for kind in KINDS for name in names(kind)]
    rest = ["rocm_core.claims.ledger", "rocm_core.report.build", "rocm_core.shapes.scenes"]
    rest += ["rocm_core.study.build", "rocm_core.study.aggregate"]
    rest += [f"rocm_core.recipes.{f.stem}" for f in (ROOT / "rocm_core/recipes").glob("*.py")]
    closure = module_closure(*scripts, *plugins, *rest)
    return [name for name in closure if ":" not in name]


def taken(module):
    """(room, name) of every import of a module from a skipped one."""
    path = ROOT / module if module.endswith(".py") else source_of(module)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for source, name in imports_of(ast.parse(path.read_bytes()), package):
        if source == "rocm_core" and name:
            source, name = f"rocm_core.{name}", ""
        if is_skipped(source):
            yield source, name


def test_every_name_from_a_skipped_room_is_argued_for(followed):
    found = {}
    for module in followed:
        for room, name in taken(module):
            found.setdefault(room, set()).add(name)
    assert found == {room: set(reasons) for room, reasons in REASONS.items()}


def test_the_settings_that_jobs_take_have_no_other_logic(followed):
    classes = {
        node.name: {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        for path in (ROOT / "rocm_core/configuration").glob("*.py")
        for node in ast.parse(path.read_bytes()).body
        if isinstance(node, ast.ClassDef)
    }
    assert {name: classes[name] for name in MEMBERS} == MEMBERS
