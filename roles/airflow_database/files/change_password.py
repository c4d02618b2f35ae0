"""Change the password of the PostgreSQL role that logs in.

Reads a JSON object from standard input, so that no secret shows in a process list: `dsn` (keywords of
psycopg2.connect), and `password`, the new one. The server gets it hashed, as psql's own command
sends it: its log may hold the statement.
"""

import json
import sys

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import encrypt_password

wanted = json.load(sys.stdin)
connection = psycopg2.connect(**wanted["dsn"])
with connection, connection.cursor() as cursor:
    hashed = encrypt_password(wanted["password"], wanted["dsn"]["user"], connection)
    cursor.execute(sql.SQL("ALTER ROLE CURRENT_USER PASSWORD {}").format(sql.Literal(hashed)))
