"""How the library is laid out: rooms without circles, doors, and the page that draws them."""

import ast

import import_graph
import pytest

MOST_MODULES = 12  # at the top of the package, beside the rooms
LONGEST_JOURNEY = 12


def test_no_room_and_no_module_imports_itself_in_a_circle():
    assert import_graph.circle(import_graph.room_imports()) == []
    assert import_graph.circle(import_graph.module_imports()) == []


def test_a_circle_would_be_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}
    assert import_graph.circle(graph) == ["b", "c", "b"]


def test_imports_inside_functions_count_and_those_for_type_checkers_do_not():
    source = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rocm_core.a\n"
        "def f():\n    from rocm_core.b import c\n"
    )
    found = set(import_graph.imports_of(ast.parse(source), "rocm_core"))
    assert ("rocm_core.b", "c") in found and ("rocm_core.a", "") not in found


def test_few_modules_stand_beside_the_rooms():
    files = [path for path in (import_graph.ROOT / "rocm_core").glob("[!_]*.py")]
    assert 0 < len(files) <= MOST_MODULES


def test_no_module_enters_its_own_room_by_its_door():
    for module, targets in import_graph.module_imports().items():
        room = ".".join(module.split(".")[:2])
        assert module == room or room not in targets, module


def test_other_rooms_are_entered_by_their_doors():
    """Plug-ins are modules that people name; whatever else is taken goes through an `__init__`."""
    doors = {name for name, file in import_graph.modules().items() if file.name == "__init__.py"}
    for module, targets in import_graph.module_imports().items():
        for target in targets - doors:
            inside = import_graph.room_of(module) == import_graph.room_of(target)
            assert inside or len(target.split(".")) == 2 or _may_be_named(target), (module, target)


def _may_be_named(module: str) -> bool:
    """Modules of rooms whose files are what one asks for by name, such as a scorer or a table."""
    rooms = ("rewards", "divergences", "shapes", "grid", "recipes", "tables")
    return import_graph.room_of(module) in rooms


def test_a_room_says_in_at_most_three_lines_what_it_is_for():
    for room in import_graph.room_imports():
        file = import_graph.modules()[f"rocm_core.{room}"]
        text = ast.get_docstring(ast.parse(file.read_bytes()))
        assert text, room
        if file.name == "__init__.py":
            assert len(text.split("\n\n")[0].splitlines()) <= 3, room


def test_the_page_is_that_of_the_code():
    assert import_graph.PAGE.read_text(encoding="utf-8") == import_graph.page()


@pytest.mark.parametrize("journey", import_graph.JOURNEYS)
def test_a_newcomers_journey_is_short_and_along_real_files(journey):
    steps = [file for file, _ in import_graph.JOURNEYS[journey]]
    assert 0 < len(steps) == len(set(steps)) <= LONGEST_JOURNEY
    for file in steps:
        assert (import_graph.ROOT / file).is_file(), file
