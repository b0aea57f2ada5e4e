"""The ADBC Flight SQL driver against a node: statements, parameters, metadata, streaming, cancel, errors.

Usage: adbc.py PATH_TO_GREYLAG
"""

import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import adbc_driver_flightsql.dbapi as flightsql
from adbc_driver_flightsql import DatabaseOptions

PATIENCE = 60


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, condition):
    end = time.monotonic() + PATIENCE
    last = None
    while time.monotonic() < end:
        try:
            found = condition()
            if found:
                return found
        except Exception as error:  # the node is starting
            last = error
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {PATIENCE} s ({last})")


def connect(port, token):
    return flightsql.connect(
        f"grpc://127.0.0.1:{port}",
        db_kwargs={DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {token}"},
        autocommit=True,
    )


def rows(connection, sql, parameters=None):
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


def fails(connection, sql, code):
    try:
        rows(connection, sql)
    except Exception as error:
        assert code in str(error), f"{code} expected for {sql!r}, got: {error}"
        return
    raise AssertionError(f"{sql!r} should have failed with {code}")


def write_lake(folder):
    folder.mkdir()
    lines = ["id,name,amount"] + [f"{i},name {i % 7},{i}.5" for i in range(50_000)]
    (folder / "payments.csv").write_text("\n".join(lines) + "\n")
    (folder / "names.ndjson").write_text('{"name":"name 1","city":"Tromsø"}\n{"name":"name 2","city":null}\n')


def check(connection):
    assert rows(connection, "SELECT 1 + 1 AS two") == [(2,)]
    assert rows(connection, "SELECT count(*), min(id), max(id) FROM payments") == [(50_000, 0, 49_999)]
    joined = "SELECT n.city, count(*) FROM payments p JOIN lake.main.names n ON p.name = n.name GROUP BY 1 ORDER BY 1"
    assert rows(connection, joined) == [("Tromsø", 7143), (None, 7143)], rows(connection, joined)
    # Prepared, with parameters.
    assert rows(connection, "SELECT name FROM payments WHERE id = $1", (42,)) == [("name 0",)]
    # Streaming: the whole table in batches, each row once.
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM payments")
        reader = cursor.fetch_record_batch()
        ids = [i for batch in reader for i in batch.column(0).to_pylist()]
    assert sorted(ids) == list(range(50_000))
    # A result that is dropped early leaves the connection usable.
    with connection.cursor() as cursor:
        cursor.execute("SELECT a.id FROM payments a CROSS JOIN payments b")
        cursor.fetchmany(10)
    assert rows(connection, "SELECT 1") == [(1,)]
    # Metadata.
    assert connection.adbc_get_table_types(), "table types"
    schema = connection.adbc_get_table_schema("payments", catalog_filter="lake", db_schema_filter="main")
    assert [f.name for f in schema] == ["id", "name", "amount"], schema
    objects = connection.adbc_get_objects(depth="tables", catalog_filter="lake").read_all().to_pylist()
    tables = {t["table_name"] for c in objects for s in c["catalog_db_schemas"] for t in s["db_schema_tables"]}
    assert {"payments", "names"} <= tables, objects
    # Errors keep their code.
    fails(connection, "SELEC 1", "GL1001")
    fails(connection, "SELECT * FROM nowhere", "GL1002")
    fails(connection, "DROP TABLE payments", "GL1006")


def main():
    greylag = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_lake(folder / "lake")
        door, mesh = free_port(), free_port()
        node = subprocess.Popen(
            [greylag, "node", "--dev", "--data-dir", str(folder / "node"), "--set", f"flight=127.0.0.1:{door}", "--set", f"listen=127.0.0.1:{mesh}"],
            stdout=open(folder / "node.log", "w"),
            stderr=subprocess.STDOUT,
        )
        try:
            token_file = folder / "node" / "admin.token"
            token = wait_for("admin token", lambda: token_file.exists() and token_file.read_text().strip())
            connection = wait_for("door", lambda: (c := connect(door, token)) and rows(c, "SELECT 1") and c)
            (folder / "sources.yaml").write_text(
                f"kind: Source\nname: lake\nconnector: files\noptions:\n  path: {folder / 'lake'}\n"
            )
            target = ["--server", f"127.0.0.1:{door}", "--token", token]
            subprocess.run([greylag, "apply", "-f", str(folder / "sources.yaml"), *target], check=True)
            wait_for("tables", lambda: len(rows(connection, "SELECT * FROM system.tables WHERE source = 'lake' AND error IS NULL")) == 2)
            check(connection)
            bad = connect(door, token[:-4] + "AAAA")
            fails(bad, "SELECT 1", "GL2001")
            connection.close()
        except BaseException:
            sys.stderr.write((folder / "node.log").read_text()[-4000:])
            raise
        finally:
            node.terminate()
            try:
                node.wait(20)
            except subprocess.TimeoutExpired:
                node.kill()
                raise AssertionError("the node did not stop on SIGTERM within 20 s")
        assert node.returncode == 0, f"the node ended with {node.returncode}"
    print("adbc: all checks passed")


if __name__ == "__main__":
    main()
