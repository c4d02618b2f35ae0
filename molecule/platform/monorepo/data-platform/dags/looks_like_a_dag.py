"""Only speaks of a dag and of airflow: a helper, which `.airflowignore` names."""

raise RuntimeError
