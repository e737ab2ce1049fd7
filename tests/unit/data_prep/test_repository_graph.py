"""Imports of small repositories in each language lead where its compiler, interpreter or bundler would look."""

import pytest

from data_prep.languages import detect
from data_prep.repositories.extract import extract
from data_prep.repositories.files import File
from data_prep.repositories.resolve import dependencies


def graph(sources: dict[str, str], repository: str = "owner/project") -> dict[str, set[str]]:
    """path -> paths that it needs, where there are any."""
    files = []
    for path, text in sources.items():
        language = detect(path, text)
        found = extract(language, path, text)
        files.append(File(path, language, *(found or ())))
    needs = dependencies(files, repository)
    return {file.path: {files[i].path for i in others} for file, others in zip(files, needs, strict=True) if others}


def test_python_relative_imports_and_packages():
    assert graph(
        {
            "pkg/__init__.py": "from .a import one\n",
            "pkg/a.py": "import os\nfrom . import b\n",
            "pkg/b.py": "from ..other import x\n",
            "pkg/sub/__init__.py": "",
            "pkg/sub/c.py": "from .. import a as q\nfrom ..b import (name,\n  other)\nfrom . import d\n",
            "pkg/sub/d.py": "def f():\n    from pkg.sub.c import y\n    import pkg.a\n",
        }
    ) == {
        "pkg/__init__.py": {"pkg/a.py"},
        "pkg/a.py": {"pkg/b.py"},
        "pkg/sub/c.py": {"pkg/a.py", "pkg/b.py", "pkg/sub/d.py"},
        "pkg/sub/d.py": {"pkg/sub/c.py", "pkg/a.py"},
    }


def test_python_src_layout_scripts_and_names_of_the_standard_library():
    assert graph(
        {
            "src/pkg/__init__.py": "",
            "src/pkg/json.py": "import json\n",
            "src/pkg/core.py": "from pkg import json\nimport numpy\n",
            "tests/helpers.py": "import pkg.core\n",
            "tests/test_core.py": "import helpers\nfrom pkg.core import f\n",
            "tools/helpers.py": "",
            "tools/run.py": "import helpers\n",
        }
    ) == {
        "src/pkg/core.py": {"src/pkg/json.py"},
        "tests/helpers.py": {"src/pkg/core.py"},
        "tests/test_core.py": {"tests/helpers.py", "src/pkg/core.py"},
        "tools/run.py": {"tools/helpers.py"},
    }


def test_a_python_package_at_the_root_has_the_repositorys_name():
    sources = {"__init__.py": "", "a.py": "import my_tool.sub.b\n", "sub/b.py": "from ..c import d\n", "c.py": ""}
    assert graph(sources, "someone/my-tool") == {"a.py": {"sub/b.py"}, "sub/b.py": {"c.py"}}


def test_c_includes_beside_the_file_and_under_include_folders():
    assert graph(
        {
            "src/main.c": '#include <stdio.h>\n#include "util.h"\n#ifdef X\n#include <lib/api.h>\n#endif\n',
            "src/util.h": '#include "../common/types.h"\n',
            "other/util.h": "",
            "include/lib/api.h": "#include <lib/string.h>\n",
            "include/lib/string.h": "",
            "compat/stdio.h": "int x;\n",
            "common/types.h": "int y;\n",
            "app/view.cpp": '#include "lib/api.h"\n#include "util.h"\n#include <vector>\n',
            "app/util.h": "class A;\n",
        }
    ) == {
        "src/main.c": {"src/util.h", "include/lib/api.h"},
        "src/util.h": {"common/types.h"},
        "include/lib/api.h": {"include/lib/string.h"},
        "app/view.cpp": {"include/lib/api.h", "app/util.h"},
    }


def test_go_packages_are_folders_of_the_module():
    assert graph(
        {
            "main.go": 'package main\nimport (\n "fmt"\n "github.com/me/tool/pkg/json"\n x "github.com/me/tool"\n)\n',
            "tool.go": 'package tool\nimport "encoding/json"\n',
            "pkg/json/a.go": 'package json\nimport "github.com/me/tool/internal/log"\n',
            "pkg/json/a_test.go": 'package json\nimport "github.com/else/internal/log"\n',
            "internal/log/log.go": 'package log\nimport "log"\n',
            "cmd/x/main.go": 'package main\nimport "github.com/me/tool"\n',
        }
    ) == {
        "main.go": {"pkg/json/a.go", "tool.go"},
        "pkg/json/a.go": {"internal/log/log.go"},
        "pkg/json/a_test.go": {"internal/log/log.go"},
        "cmd/x/main.go": {"main.go", "tool.go"},
    }


def test_javascript_extensions_index_files_and_require():
    assert graph(
        {
            "src/app.js": "import a from './a';\nconst b = require('./b');\nimport('./c.mjs');\nf('./d')",
            "src/a.jsx": "export * from '../lib';\n",
            "src/b/index.js": "const data = require('../data.json')\n",
            "src/c.mjs": "import x from './missing'\n",
            "src/d.js": "",
            "src/data.json": "{}",
            "lib/index.ts": "import {q} from './q.js'\nimport r = require('./r')\n",
            "lib/q.ts": "",
            "lib/r.d.ts": "export {}\n",
        }
    ) == {
        "src/app.js": {"src/a.jsx", "src/b/index.js", "src/c.mjs"},
        "src/a.jsx": {"lib/index.ts"},
        "src/b/index.js": {"src/data.json"},
        "lib/index.ts": {"lib/q.ts", "lib/r.d.ts"},
    }


def test_typescript_paths_base_url_and_workspaces():
    assert graph(
        {
            "tsconfig.base.json": '{"compilerOptions": {"paths": {"~lib/*": ["packages/lib/src/*"]}, // c\n}}',
            "packages/app/tsconfig.json": '{"extends": "../../tsconfig.base", "compilerOptions": {"baseUrl": "src"}}',
            "packages/app/src/main.tsx": "import {v} from 'views/home'\nimport '@me/lib'\nimport '@me/lib/m'\n",
            "packages/app/src/views/home.tsx": "export const v = <div/>\n",
            "packages/lib/tsconfig.json": '{"extends": "../../tsconfig.base.json"}',
            "packages/lib/package.json": '{"name": "@me/lib", "main": "dist/index.js"}',
            "packages/lib/src/index.ts": "export * from '~lib/m'\n",
            "packages/lib/src/m.ts": "",
        }
    ) == {
        "packages/app/src/main.tsx": {
            "packages/app/src/views/home.tsx",
            "packages/lib/src/index.ts",
            "packages/lib/src/m.ts",
        },
        "packages/lib/src/index.ts": {"packages/lib/src/m.ts"},
    }


def test_java_imports_and_types_of_the_same_package():
    assert graph(
        {
            "src/main/java/a/b/Main.java": "package a.b; import a.c.Tool; import static a.c.Consts.X; import a.d.*;\n"
            "class Main { Same s; Wild w; String t = Helper.name(); }\n",
            "src/main/java/a/b/Same.java": "package a.b;\npublic interface Same {}\n",
            "src/main/java/a/b/Helper.java": "package a.b;\nclass Helper { static String name() { return null; } }\n",
            "src/main/java/a/b/Unused.java": "package a.b;\nclass Unused extends Elsewhere {}\n",
            "src/main/java/a/c/Tool.java": "package a.c;\npublic class Tool { public static class In {} }\n",
            "src/main/java/a/c/Consts.java": "package a.c;\nimport a.c.Tool.In;\npublic class Consts { In i; }\n",
            "src/main/java/a/d/Wild.java": "package a.d;\npublic enum Wild {}\n",
            "src/main/java/a/d/Other.java": "package a.d;\npublic record Other(int x) {}\n",
        }
    ) == {
        "src/main/java/a/b/Main.java": {
            f"src/main/java/a/{name}.java" for name in ("c/Tool", "c/Consts", "d/Wild", "b/Same", "b/Helper")
        },
        "src/main/java/a/c/Consts.java": {"src/main/java/a/c/Tool.java"},
    }


def test_csharp_namespaces():
    assert graph(
        {
            "App/Main.cs": "using System;\nusing Lib.Data;\nusing static Lib.Maths;\nusing A = Lib.Text.Words;\n"
            "namespace App { class Main : Base { Row r; Console c; } }\n",
            "App/Base.cs": "namespace App;\npublic class Base { }\n",
            "App/Views/View.cs": "namespace App.Views;\nclass View { Base b; }\n",
            "Lib/Row.cs": "namespace Lib.Data { public partial class Row { class In { } } }\n",
            "Lib/Row.Parts.cs": "namespace Lib.Data { public partial class Row { } }\n",
            "Lib/Maths.cs": "namespace Lib { public static class Maths { } }\n",
            "Lib/Words.cs": "namespace Lib.Text { public class Words { } public class Row { } }\n",
            "Lib/Inside.cs": "namespace Lib.More { using Text; class Inside { Words w; } }\n",
            "Outside.cs": "using Text;\nclass Outside { Words w; }\n",
        }
    ) == {
        "App/Main.cs": {"App/Base.cs", "Lib/Row.cs", "Lib/Row.Parts.cs", "Lib/Maths.cs", "Lib/Words.cs"},
        "App/Views/View.cs": {"App/Base.cs"},
        "Lib/Inside.cs": {"Lib/Words.cs"},
    }


def test_rust_modules_and_crates_of_a_workspace():
    assert graph(
        {
            "core-lib/src/lib.rs": 'pub mod a;\nmod b;\n#[path = "odd.rs"]\nmod c;\nmod inline { mod deep; }\n',
            "core-lib/src/a.rs": "use crate::b::{self, inner::Thing as T};\nuse super::c;\nfn f() { self::x::g() }\n",
            "core-lib/src/a/x.rs": "pub fn g() { super::super::b::h() }\n",
            "core-lib/src/b/mod.rs": "mod inner;\n",
            "core-lib/src/b/inner.rs": "",
            "core-lib/src/odd.rs": "",
            "core-lib/src/inline/deep.rs": "",
            "core-lib/tests/it.rs": "use core_lib::a::x::g;\n",
            "cli/src/main.rs": "mod args;\nuse args::Args;\nuse core_lib::b;\nuse serde::de;\n",
            "cli/src/args.rs": "",
        }
    ) == {
        "core-lib/src/lib.rs": {f"core-lib/src/{name}.rs" for name in ("a", "b/mod", "odd", "inline/deep")},
        "core-lib/src/a.rs": {
            "core-lib/src/b/mod.rs",
            "core-lib/src/b/inner.rs",
            "core-lib/src/lib.rs",
            "core-lib/src/a/x.rs",
        },
        "core-lib/src/a/x.rs": {"core-lib/src/b/mod.rs"},
        "core-lib/src/b/mod.rs": {"core-lib/src/b/inner.rs"},
        "core-lib/tests/it.rs": {"core-lib/src/a/x.rs"},
        "cli/src/main.rs": {"cli/src/args.rs", "core-lib/src/b/mod.rs"},
    }


@pytest.mark.parametrize("language", ["Python", "C", "C++", "Go", "Java", "JavaScript", "TypeScript", "Rust", "C#"])
@pytest.mark.parametrize("text", ["", "\0\0", "import import #include use from ((( {{{", "x" * 5000, "é\ud7ff import"])
def test_broken_files_give_what_can_be_read(language, text):
    found = extract(language, "a/b", text)
    File("a/b", language, *found)
    assert dependencies([File("a/b", language, *found), File("c", language, *found)], "r") is not None


def test_a_broken_file_keeps_the_imports_that_can_be_read():
    sources = {"a.py": "import b\nx = = 3\nimport c\n", "b.py": "", "c.py": ""}
    assert graph(sources) == {"a.py": {"b.py", "c.py"}}
    sources = {"a.c": '#include "b.h"\nint main( { {{\n', "b.h": ""}
    assert graph(sources) == {"a.c": {"b.h"}}


def test_languages_do_not_import_from_each_other():
    assert graph({"util.py": "import main\n", "main.js": "import './util'\n", "main.c": '#include "util.py"\n'}) == {}
