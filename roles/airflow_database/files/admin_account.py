"""Tell how Airflow's admin account stands: prints `missing`, `password differs` or `as wanted`.

Reads a JSON object from standard input, so that no secret shows in a process list: `dsn` (keywords of
psycopg2.connect), `username` and `password`.
"""

import json
import sys

import psycopg2
from werkzeug.security import check_password_hash

wanted = json.load(sys.stdin)
with psycopg2.connect(**wanted["dsn"]) as connection, connection.cursor() as cursor:
    cursor.execute("SELECT password FROM ab_user WHERE username = %s", (wanted["username"],))
    row = cursor.fetchone()

if row is None:
    print("missing")
elif check_password_hash(row[0], wanted["password"]):
    print("as wanted")
else:
    print("password differs")
