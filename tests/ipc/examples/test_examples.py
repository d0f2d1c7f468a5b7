"""The examples as a stranger gets them: installed, compiled by pkg-config and by CMake, run.

DS4_SOURCE_DIR and DS4_BINARY_DIR are this tree and its build.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from agent import Agent
from ds4 import _library as library

SOURCE = Path(os.environ["DS4_SOURCE_DIR"])
EXAMPLES = SOURCE / "ipc/examples"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]

CAPITAL = "The capital of France is Paris."
SUM = "37 + 45 = 82."
CONTINENT = "Kenya is in Africa."

agent: Agent
prefix: Path


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode != 0 or done.stderr:
        raise AssertionError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def setUpModule() -> None:
    global agent, prefix
    directory = tempfile.TemporaryDirectory(prefix="ds4-")
    unittest.addModuleCleanup(directory.cleanup)
    prefix = Path(directory.name) / "usr"
    for component in ("client", "client-dev", "python"):
        build = os.environ["DS4_BINARY_DIR"]
        run("cmake", "--install", build, "--prefix", prefix, "--component", component)
    agent = Agent()
    unittest.addModuleCleanup(agent.close)


def library_dir() -> Path:
    (found,) = prefix.glob("lib/**/libds4client.so.1")
    return found.parent


def example(*command: str | Path) -> str:
    """What it prints, finding nothing but what was installed."""
    return run(
        *command,
        DS4_SOCKET=str(agent.socket),
        LD_LIBRARY_PATH=str(library_dir()),
        DS4_CLIENT_LIBRARY="",
        PYTHONPATH=str(prefix / "lib/python3/dist-packages"),
        PYTHONDONTWRITEBYTECODE="1",
    )


class Installed(unittest.TestCase):
    def test_each_component_has_its_files_and_no_other(self) -> None:
        files = {path.name for path in prefix.rglob("*") if not path.is_dir()}
        self.assertLessEqual(
            {"ds4.h", "ds4.hpp", "libds4client.so", "ds4client.pc", "ds4clientConfig.cmake"}, files
        )
        module = {path.name for path in (prefix / "lib/python3/dist-packages/ds4").iterdir()}
        self.assertLessEqual({"__init__.py", "client.py", "py.typed"}, module)
        self.assertFalse({name for name in files if name.endswith((".a", ".pyc", ".in"))})

    def test_the_library_exports_the_c_interface_alone(self) -> None:
        symbols = run("nm", "-D", "--defined-only", library_dir() / "libds4client.so.1").split()
        names = [name for name in symbols[2::3] if not name.startswith("DS4_")]
        self.assertGreater(len(names), 20)
        self.assertEqual([name for name in names if not name.startswith("ds4_")], [])


class Compiled(unittest.TestCase):
    def build(self, source: str, *compiler: str) -> Path:
        directory = tempfile.TemporaryDirectory(prefix="ds4-")
        self.addCleanup(directory.cleanup)
        program = Path(directory.name) / "program"
        path = str(library_dir() / "pkgconfig")
        flags = run("pkg-config", "--cflags", "--libs", "ds4client", PKG_CONFIG_PATH=path).split()
        run(*compiler, *WARNINGS, "-o", program, EXAMPLES / source, *flags)
        return program


class ByPkgConfig(Compiled):
    def test_hello_in_c(self) -> None:
        self.assertEqual(example(self.build("hello.c", "cc", "-std=c11")), CAPITAL + "\n")

    def test_hello_in_cpp(self) -> None:
        self.assertEqual(example(self.build("hello.cpp", "c++", "-std=c++20")), CAPITAL + "\n")


class InTheModule(Compiled):
    """What ds4.h says in C and the Python module repeats."""

    def test_structs_and_numbers_are_those_of_the_header(self) -> None:
        structs = {
            "ds4_connect_options": library.ConnectOptions,
            "ds4_info": library.RawInfo,
            "ds4_message": library.RawMessage,
            "ds4_request": library.RawRequest,
            "ds4_event": library.Event,
        }
        expected = {}
        for name, struct in structs.items():
            expected[f"sizeof({name})"] = ctypes.sizeof(struct)
            for field, *_ in struct._fields_:
                expected[f"offsetof({name}, {field})"] = getattr(struct, field).offset
        for name, value in vars(library).items():
            if name.isupper() and isinstance(value, int) and name != "API_VERSION":
                expected[f"DS4_{name}"] = value
        self.assertGreater(len(expected), 60)
        checks = "".join(f'_Static_assert({a} == {b}u, "{a}");\n' for a, b in expected.items())
        with tempfile.NamedTemporaryFile("w", suffix=".c") as source:
            source.write(f"#include <ds4.h>\n#include <stddef.h>\n{checks}int main(void) {{}}\n")
            source.flush()
            self.build(source.name, "cc", "-std=c11")


class ByCMake(unittest.TestCase):
    def test_all_are_found_built_and_right(self) -> None:
        with tempfile.TemporaryDirectory(prefix="ds4-") as build:
            run(
                "cmake", "-S", EXAMPLES, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}",
                f"-DCMAKE_C_FLAGS={' '.join(WARNINGS)}", f"-DCMAKE_CXX_FLAGS={' '.join(WARNINGS)}",
            )  # fmt: skip
            run("cmake", "--build", build)
            self.assertEqual(example(f"{build}/hello_c"), CAPITAL + "\n")
            self.assertEqual(example(f"{build}/hello_cpp"), CAPITAL + "\n")
            lines = sorted(example(f"{build}/epoll").splitlines())
            self.assertEqual(
                lines, [f"What is 37 + 45? {SUM}", f"What is the capital of France? {CAPITAL}"]
            )

    def test_another_major_version_is_not_found(self) -> None:
        with tempfile.TemporaryDirectory(prefix="ds4-") as project:
            (Path(project) / "CMakeLists.txt").write_text(
                "cmake_minimum_required(VERSION 3.20)\nproject(p LANGUAGES NONE)\n"
                "find_package(ds4client 2 QUIET)\n"
                "if(ds4client_FOUND)\n  message(FATAL_ERROR found)\nendif()\n"
            )
            run("cmake", "-S", project, "-B", f"{project}/b", f"-DCMAKE_PREFIX_PATH={prefix}")


class InPython(unittest.TestCase):
    def test_hello(self) -> None:
        self.assertEqual(example(sys.executable, EXAMPLES / "hello.py"), CAPITAL + "\n")

    def test_several_answers_together(self) -> None:
        lines = sorted(example(sys.executable, EXAMPLES / "together.py").splitlines())
        self.assertEqual(
            lines,
            [
                f"What is 37 + 45? {SUM}",
                f"What is the capital of France? {CAPITAL}",
                f"Which continent is Kenya in? {CONTINENT}",
            ],
        )

    def test_forks_of_one_session(self) -> None:
        lines = example(sys.executable, EXAMPLES / "fork.py").splitlines()
        self.assertEqual(lines[0], CAPITAL)
        self.assertEqual(lines[1], f"What is 37 + 45? {SUM}")
        self.assertEqual(lines[2], f"Which continent is Kenya in? {CONTINENT}")


class Readme(unittest.TestCase):
    def test_shows_the_examples_as_they_are(self) -> None:
        readme = (SOURCE / "README.md").read_text()
        for name in ("hello.py", "hello.cpp", "hello.c"):
            lines = (EXAMPLES / name).read_text().splitlines(keepends=True)
            shown = "".join(f"    {line}" if line.strip() else line for line in lines)
            self.assertIn(shown, readme, f"README.md does not show {name} as it is")


if __name__ == "__main__":
    unittest.main()
