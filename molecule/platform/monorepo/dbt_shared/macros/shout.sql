{% macro shout(word) %}'{{ word | upper }}'{% endmacro %}
