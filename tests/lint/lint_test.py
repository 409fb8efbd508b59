"""Each rule of lint.py on a small tree that breaks it, and on one that does not."""
import pathlib
import tempfile
import unittest

import lint

CLEAN = {
    "lib/flowmap/base/text.h": "#pragma once\n#include <string>\n",
    "lib/flowmap/ops.h": '#pragma once\n#include "flowmap/base/text.h"\n',
    "lib/flowmap/ops.cpp": '#include "flowmap/ops.h"\n#include "kernels/api.h"\n',
    "lib/samplers/sampler.h": '#pragma once\n#include "flowmap/ops.h"\n',
    "lib/metrics/metric.h": "#pragma once\n",
    "kernels/api.h": "#pragma once\n// no torch:: here, nor \"at::Tensor\"\n",
    "configs/toy/a.json": "// For a newcomer; a minute.\n// To reach: 0.1\n{}\n",
    "docs/a.md": "[here](../lib/flowmap/ops.h#x) [there](https://example.org)\n",
}
UNFINISHED_WORD = "TO" + "DO"

# (what the message says, the file, its text)
BREACHES = [
    ("kernels may not include lib/flowmap/base", "kernels/a.cpp",
     '#include "flowmap/base/text.h"\n'),
    ("lib/flowmap/base may not include kernels", "lib/flowmap/base/a.cpp",
     '#include "kernels/api.h"\n'),
    ("lib/flowmap may not include kernels", "lib/flowmap/nn/a.cpp",
     '#include "kernels/api.h"\n'),
    ("lib/flowmap may not include lib/samplers", "lib/flowmap/a.cpp",
     "#include <samplers/sampler.h>\n"),
    ("lib/metrics may not include lib/samplers", "lib/metrics/a.cpp",
     '#include "samplers/sampler.h"\n'),
    ("tests/metrics may not include lib/samplers", "tests/metrics/a_test.cpp",
     '#include "samplers/sampler.h"\n'),
    ("include by full path", "lib/flowmap/a.cpp", '#include "ops.h"\n'),
    ("torch/torch.h costs", "apps/a.cpp", "#include <torch/torch.h>\n"),
    ("kernels knows no torch, and includes", "kernels/a.cu", "#include <ATen/ATen.h>\n"),
    ("lib/flowmap/base knows no torch, and names", "lib/flowmap/base/a.cpp",
     "at::Tensor x;  // comment\n"),
    ("never in a header", "apps/a.h", "#pragma once\n#include <CLI/CLI.hpp>\n"),
    ("without #pragma once", "apps/a.h", "int x;\n"),
    ("601 lines", "apps/a.cpp", "\n" * 601),
    ("101 columns", "apps/a.cpp", "x" * 101 + "\n"),
    ("tab", "apps/a.cpp", "\tint x;\n"),
    ("unfinished", "scripts/a.sh", f"# {UNFINISHED_WORD} more\n"),
    ("path of one machine", "docs/b.md", "see /home" + "/somebody/x\n"),
    ("path of one machine", "scripts/a.sh", "cd /ro" + "ot/.cache\n"),
    ("does not say for whom", "configs/toy/b.json", "// Costs an hour, reaches 1.\n{}\n"),
    ("does not say what it costs", "configs/toy/b.json", "// For x; reaches 1.\n{}\n"),
    ("does not say the number", "configs/toy/b.json", "// For x: an hour.\n{}\n"),
    ("link to nowhere.md", "docs/b.md", "[here](nowhere.md)\n"),
]


class LintTest(unittest.TestCase):
    def breaches(self, extra):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in {**CLEAN, **extra}.items():
                path = pathlib.Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            return list(lint.check_tree(folder))

    def test_clean_tree_is_silent(self):
        self.assertEqual(self.breaches({}), [])

    def test_each_breach_is_named_and_alone(self):
        for message, name, text in BREACHES:
            with self.subTest(message=message, name=name):
                found = self.breaches({name: text})
                self.assertEqual(len(found), 1, found)
                self.assertTrue(found[0].startswith(name + ":"), found)
                self.assertIn(message, found[0])

    def test_a_marked_table_may_be_long(self):
        self.assertEqual(self.breaches({"apps/a.cpp": "// lint: table\n" + "\n" * 900}), [])


if __name__ == "__main__":
    unittest.main()
