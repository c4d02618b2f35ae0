# What the scripts of a release share. They know their release by where they lie: <airflow_directory>/releases/<id>/libexec.
# shellcheck shell=bash
set -euo pipefail
# On a hardened host, who logs in has one that would keep Airflow's user out.
umask 022
# One at a time: the host may go back by itself while a deploy still works on it.
# Root's, or a task could hold it up.
if [ -z "${LVAO_LOCKED-}" ]; then (umask 077 && : >>/run/lock/lvao-airflow) && LVAO_LOCKED=1 exec flock /run/lock/lvao-airflow "$0" "$@"; fi

release=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
directory=$(realpath "$release/../..")
current=$directory/current
secrets=$directory/secrets
units=/etc/systemd/system
# What root notes of each unit that runs. In the unit's own directory, a task could plant links there for root to follow.
notes=/run/lvao-airflow

# Renamed over what is there: at every moment there is a whole link.
point() { # link, to what
  ln --symbolic --force --no-target-directory "$2" "$1.new"
  mv --force --no-target-directory "$1.new" "$1"
}

same_secrets() { [ -z "${LVAO_SECRETS-}" ] || [ "$LVAO_SECRETS" -ef "$secrets/current" ]; }

live_scheduler() {
  local unit
  unit=$(readlink "$units/lvao-airflow-scheduler.service" || echo lvao-airflow-scheduler-a.service)
  echo "${unit%.service}"
}

# `switch` installs the units of a release, and then moves the link to it: it may have died in between.
has_its_units() {
  local unit
  for unit in "$current"/systemd/*; do cmp --silent "$unit" "$units/${unit##*/}" || return; done
}

busy() { [[ $(systemctl show --property=ActiveState --value "$1") == @(active|deactivating) ]]; }

# After a database that was away for long, or by a fault, the loop of a scheduler has ended or hangs: it stays for its tasks, and
# schedules none. Where nobody can tell, it does not.
stalls() {
  local url
  systemctl is-active --quiet "$1" || return
  url=$(sed --quiet 's/^AIRFLOW__CORE__EXECUTION_API_SERVER_URL=//p' "$current"/etc/env.d/*.env | tr --delete \'\"\')
  curl --silent --fail --max-time 10 "${url%execution/}api/v2/monitor/health" | python3 -c '
import json, sys
health = json.loads(sys.stdin.read() or "{}")
sys.exit([health.get(name, {}).get("status") for name in ("metadatabase", "scheduler")] != ["healthy", "unhealthy"])'
}

# Tells a scheduler to finish its tasks and end, however long they take.
retire() {
  if [ -d "$notes/$1" ]; then touch "$notes/$1/retired"; fi
  systemctl stop --no-block "$1"
}

# `base` is a digest of what a unit must be restarted for: packages and configuration. Each unit keeps that of its start, and
# a link to its secrets.
runs_what_is_current() {
  systemctl is-active --quiet "$1" && [ ! -e "$notes/$1/ended" ] && cmp --silent "$current/base" "$notes/$1/base" && [ "$(readlink "$notes/$1/secrets")" = "$(readlink "$secrets/current")" ]
}
