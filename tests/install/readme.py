#!/usr/bin/env python3
"""Follows the README's section "Install and link" word for word: its own lines are run, nothing is typed again here.

In order: the sh blocks, in one shell, in a copy of the tree that has a program.c; the program that each of them leaves is
run. Then the meson and cmake blocks, as the body of a project of a user. Two builds of the library (the second as a
subproject of a debug parent) make it too slow for the test suite: .ci/run's part "install" runs it. With a package cache the
subproject takes its dependencies from their wraps.

usage: readme.py ROOT [--package-cache FOLDER] [--keep]
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = "minimal.c"  # of examples/c: exits 0 if the layer computes the known answer
passed = 0


def fail(*what):
    sys.exit("readme: " + " ".join(str(part) for part in what))


def ok(what):
    global passed
    passed += 1
    print(f"readme: {what}", flush=True)


def blocks(readme):
    """[(language, text)] of the fenced blocks of the section."""
    section = re.search(r"^## Install and link\n(.*?)^## ", readme, re.M | re.S)[1]
    found = re.findall(r"^```(\w+)\n(.*?)^```$", section, re.M | re.S)
    if [language for language, _ in found] != ["sh", "sh", "meson", "cmake"]:
        fail("the blocks of the section are", [language for language, _ in found])
    return found


def run(command, cwd, env, what):
    done = subprocess.run(command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        fail(what, "failed:", " ".join(command), "\n" + "\n".join(done.stdout.splitlines()[-40:]))
    return done.stdout


def needed(binary):
    return re.findall(r"\(NEEDED\).*\[(.*?)\]", run(["readelf", "--dynamic", "--wide", str(binary)], None, None, "readelf"))


def copy_tree(root, to):
    """What git knows of, with what has changed since."""
    names = run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], root, None, "git").split("\n")
    for name in filter(None, names):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)
    shutil.copy(root / "examples" / "c" / PROGRAM, to / "program.c")


def shell_blocks(texts, tree, env):
    for name, text in zip(("shared", "static"), texts):
        run(["bash", "-euo", "pipefail", "-c", text + "\nLC_ALL=C env -0 >environment\n"], tree, env, f"{name} block")
        block_env = dict(e.split("=", 1) for e in (tree / "environment").read_text("utf-8").split("\0") if "=" in e)
        library = "libdsv4mx.so.0"
        if (library in needed(tree / "program")) != (name == "shared"):
            fail(name, "program needs", needed(tree / "program"))
        if name == "static":
            block_env.pop("LD_LIBRARY_PATH", None)
        ok(f"{name}: " + run(["./program"], tree, block_env, f"{name} program").strip())
        (tree / "program").unlink()


def installed(prefix, env):
    """What the text says of the installed tree."""
    for name in ("include/dsv4mx.h", "share/licenses/dsv4mx/LICENSE"):
        if not (prefix / name).is_file():
            fail(prefix, "lacks", name)
    clean = {key: value for key, value in env.items() if key != "LD_LIBRARY_PATH"}
    out = run([str(prefix / "bin" / "dsv4mx-info")], None, clean, "dsv4mx-info")
    out += run([str(prefix / "bin" / "dsv4mx-bench"), "--mode", "correctness", "h=64 i=32 m=2"], None, clean, "dsv4mx-bench")
    if "cpu" not in out or "right: relative L2" not in out:
        fail("tools printed", out)
    ok(f"{prefix.name}: header, licence, and tools that find the library without LD_LIBRARY_PATH")


def ldconfig(build, to, env):
    """A default prefix and ldconfig, inside a folder that plays the root."""
    for folder in ("etc", "lib", "usr/lib"):
        (to / folder).mkdir(parents=True)
    run(["meson", "configure", str(build), "-Dprefix=/usr/local", "-Ddefault_library=shared"], None, env, "meson configure")
    run(["meson", "install", "-C", str(build), "--destdir", str(to)], None, env, "meson install")
    (to / "etc" / "ld.so.conf").write_text("/usr/local/lib\n", encoding="utf-8")
    tool = shutil.which("ldconfig", path=env["PATH"] + ":/usr/sbin:/sbin")
    run([tool, "-r", str(to)], None, env, "ldconfig")
    if "libdsv4mx.so.0 " not in run([tool, "-r", str(to), "-p"], None, env, "ldconfig -p"):
        fail("ldconfig does not list the library of /usr/local/lib")
    ok("/usr/local: ldconfig lists the library")


def fallbacks(cache, tree, project):
    """Options that build the dependencies that the cache has from their wraps."""
    served = []
    for wrap in cache.glob("*.wrap"):  # where the archive is another than the release's
        shutil.copy(wrap, tree / "lib" / "subprojects")
    for wrap in sorted((tree / "lib" / "subprojects").glob("*.wrap")):
        archive = cache / re.search(r"^source_filename = (.*)$", wrap.read_text("utf-8"), re.M)[1]
        if archive.is_file():
            served.append(wrap.stem)
            for folder in (tree / "lib" / "subprojects", project / "subprojects"):
                (folder / "packagecache").mkdir(exist_ok=True)
                shutil.copy(archive, folder / "packagecache")
    return ["--force-fallback-for=" + ",".join(served)]


def promised(library, tree, what):
    """Exports and NEEDED are those of any other build."""
    run([sys.executable, "tests/abi/symbols.py", "--header", "include/dsv4mx.h", "--map", "lib/dsv4mx.map", str(library)],
        tree, None, what)
    run([sys.executable, "tests/abi/binary.py", "--soname", "libdsv4mx.so.0", "--max-mib", "20", str(library)], tree, None, what)


def meson_block(text, tree, work, env, cache):
    """As a subproject of a parent that says nothing of its own, and against the installed library."""
    for name in ("subproject", "installed"):
        project = work / f"meson-{name}"
        (project / "subprojects").mkdir(parents=True)
        if name == "subproject":
            (project / "subprojects" / "dsv4mx").symlink_to(tree)
            project_env = {key: value for key, value in env.items() if key != "PKG_CONFIG_PATH"}
        else:
            project_env = env
        shutil.copy(tree / "program.c", project)
        (project / "meson.build").write_text("project('user', 'c')\n" + text, encoding="utf-8")
        options = fallbacks(cache, tree, project) if cache and name == "subproject" else []
        out = run(["meson", "setup", "build", *options], project, project_env, f"meson {name}")
        if options:
            subprojects = re.search(r"^  Subprojects\n(.*?)^$", out, re.M | re.S)
            print(f"readme: {options[0]}:", " ".join(subprojects[1].split()) if subprojects else "none")
        run(["meson", "compile", "-C", "build"], project, project_env, f"meson {name}")
        if name == "subproject":
            promised(next(project.glob("build/subprojects/dsv4mx/lib/libdsv4mx.so.0.*[0-9]")), tree, "the subproject's library")
        ok(f"meson, {name}: " + run(["build/program"], project, project_env, f"meson {name}").strip())


def cmake_block(text, tree, work, env):
    for name in ("dsv4mx", "dsv4mx-static"):
        project = work / f"cmake-{name}"
        project.mkdir()
        shutil.copy(tree / "program.c", project)
        lines = text.splitlines()
        (project / "CMakeLists.txt").write_text("\n".join(["cmake_minimum_required(VERSION 3.16)", "project(user C)", lines[0],
            "add_executable(program program.c)", *lines[1:]]) + "\n", encoding="utf-8")
        run(["cmake", "-B", "build", f"-DCMAKE_PREFIX_PATH={env['HOME']}/{name}"], project, env, f"cmake {name}")
        run(["cmake", "--build", "build"], project, env, f"cmake {name}")
        clean = {key: value for key, value in env.items() if key != "LD_LIBRARY_PATH"}
        ok(f"cmake, {name}: " + run(["build/program"], project, clean, f"cmake {name}").strip())
    for version, good in (("0.1", True), ("0", True), ("0.1.0", True), ("0.0", False), ("0.2", False), ("1.0", False)):
        (project / "CMakeLists.txt").write_text("cmake_minimum_required(VERSION 3.16)\nproject(user C)\n"
            f"find_package(dsv4mx {version} QUIET)\nmessage(STATUS \"found=${{dsv4mx_FOUND}}\")\n", encoding="utf-8")
        out = run(["cmake", "-B", f"v{version}", f"-DCMAKE_PREFIX_PATH={env['HOME']}/{name}"], project, env, "cmake")
        if ("found=1" in out) != good:
            fail(f"find_package(dsv4mx {version}): wanted found={int(good)}:", out)
    ok("cmake: versions")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--package-cache", type=Path)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    root = args.root.resolve()
    work = Path(tempfile.mkdtemp(prefix="dsv4mx-readme-"))
    home, tree = work / "home", work / "tree"
    home.mkdir()
    tree.mkdir()
    try:
        copy_tree(root, tree)
        found = blocks((root / "README.md").read_text(encoding="utf-8"))
        # What is tried is how it is built and found, not how fast it is: less is optimised (these come after the build type's own
        # -O3), and headers are parsed once, which they are not with ccache.
        env = {**os.environ, "HOME": str(home), "CC": "cc", "CXX": "c++", "CFLAGS": "-O1", "CXXFLAGS": "-O1"}
        for name in ("PKG_CONFIG_PATH", "LD_LIBRARY_PATH", "CMAKE_PREFIX_PATH", "DESTDIR"):
            env.pop(name, None)
        shell_blocks([text for language, text in found if language == "sh"], tree, env)
        env["PKG_CONFIG_PATH"], env["LD_LIBRARY_PATH"] = f"{home}/dsv4mx/lib/pkgconfig", f"{home}/dsv4mx/lib"
        for name in ("dsv4mx", "dsv4mx-static"):
            installed(home / name, env)
        cmake_block(found[3][1], tree, work, env)
        ldconfig(tree / "build-release", work / "root", env)
        meson_block(found[2][1], tree, work, env, args.package_cache)
    finally:
        if args.keep:
            print(f"readme: kept {work}")
        else:
            shutil.rmtree(work)
    print(f"{passed} passed, 0 failed, 0 skipped")


if __name__ == "__main__":
    main()
