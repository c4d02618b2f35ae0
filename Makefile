# The commands of this project: `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
ENV ?= development
# Of the test hosts and of the development environment: 13 or 12.
export DEBIAN ?= 13
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# uv trusts what the system trusts, a site's own certificate authority too.
export UV_SYSTEM_CERTS ?= true
# Where it is set, each Ansible compiles itself anew: twice its start.
unexport PYTHONDONTWRITEBYTECODE
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
PLAYBOOK = ansible-playbook -i inventories/$(ENV)
# Each environment's vault has a password of its own: in .vault/<env>, or where the user says it is; else Ansible asks for it.
WITH_VAULT = \
	[ -e inventories/$(ENV)/hosts.yml ] || \
		{ echo "make: there is no environment '$(ENV)': ENV is one of $(notdir $(wildcard inventories/*))" >&2; exit 1; }; \
	if [ -e .vault/$(ENV) ]; then \
		export ANSIBLE_VAULT_PASSWORD_FILE="$(CURDIR)/.vault/$(ENV)" ANSIBLE_ASK_VAULT_PASS=false; \
	elif [ -z "$$ANSIBLE_VAULT_PASSWORD_FILE$$ANSIBLE_ASK_VAULT_PASS" ] && [ -t 0 ] && \
		grep -qs '^\$$ANSIBLE_VAULT' group_vars/$(ENV)/vault.yml; then export ANSIBLE_ASK_VAULT_PASS=true; \
	fi;
# A project's build command may be a program of its packages.
SETUP_BUILD = bin/setup $$([ -z "$$(bin/project.py release_build_command 2>/dev/null)" ] || echo dags)
CONTAINER = lvao-development

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^##@/ {print "\n" substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' Makefile

##@ On your machine

.PHONY: dev
dev: ## Run Airflow, its database and its object store on this machine, with your DAGs in it
	@$(SETUP_BUILD) docker
	@ansible-playbook -i inventories/development playbooks/development.yml

.PHONY: dags
dags: ## List the DAGs of the running development environment, and what is wrong with them
	@docker exec $(CONTAINER) python3 -I /opt/airflow/current/libexec/show_dags.py

.PHONY: logs
logs: ## Follow the logs of its units
	@docker exec -it $(CONTAINER) journalctl --follow --lines=50 --unit='lvao-airflow-*'

.PHONY: shell
shell: ## Open a root shell on it
	@docker exec -it $(CONTAINER) bash

.PHONY: destroy
destroy: ## Remove it, with its data
	@docker rm --force --volumes $(CONTAINER)
	@rm -rf .cache/development

.PHONY: vm
vm: ## Run Airflow in a VM instead, by Vagrant: then ENV=vagrant for all that follows
	@bin/setup vm
	@box=$$(bin/vm-box $(DEBIAN)) && LVAO_VM_BOX=$$box vagrant up
	@$(MAKE) --no-print-directory site ENV=vagrant

##@ On your servers

# Its playbook asks by itself for the vault's password, twice for a new one.
.PHONY: secrets
secrets: ## Generate the secrets of an environment, and ask for the others: make secrets ENV=preprod
	@bin/setup
	@$(WITH_VAULT) ask=$$ANSIBLE_ASK_VAULT_PASS; unset ANSIBLE_ASK_VAULT_PASS; \
	$(PLAYBOOK) playbooks/secrets.yml --extra-vars "secrets_ask=$${ask:-false}"

.PHONY: known-hosts
known-hosts: ## Pin the SSH keys of an environment's hosts: make known-hosts ENV=preprod
	@bin/setup
	@$(WITH_VAULT) $(PLAYBOOK) playbooks/known_hosts.yml

.PHONY: database-certificate
database-certificate: ## Pin the certificate of an environment's database: make database-certificate ENV=preprod
	@bin/setup
	@$(WITH_VAULT) $(PLAYBOOK) playbooks/database_certificate.yml

.PHONY: guard
guard: ## Say what CI would miss for a deploy, without a connection: make guard ENV=preprod
	@bin/setup
	@$(WITH_VAULT) LVAO_UNATTENDED=true $(PLAYBOOK) playbooks/guard.yml

.PHONY: site
site: ## Set up the hosts of an environment, and deploy: make site ENV=preprod ARGS='--check --diff'
	@$(SETUP_BUILD)
	@$(WITH_VAULT) $(PLAYBOOK) playbooks/site.yml $(ARGS)

.PHONY: deploy
deploy: ## Deploy packages, configuration and DAGs: make deploy ENV=preprod
	@$(SETUP_BUILD)
	@$(WITH_VAULT) $(PLAYBOOK) playbooks/deploy.yml $(ARGS)

.PHONY: deploy-dags
deploy-dags: ## Deploy the DAGs alone, without a restart: make deploy-dags ENV=preprod
	@$(SETUP_BUILD)
	@$(WITH_VAULT) $(PLAYBOOK) playbooks/dags.yml $(ARGS)

.PHONY: rollback
rollback: ## Go back to the release before, or to a named one: make rollback ENV=preprod RELEASE=1a2b3c4d5e6f
	@bin/setup
	@$(WITH_VAULT) $(PLAYBOOK) playbooks/rollback.yml $(if $(RELEASE),--extra-vars airflow_rollback_release=$(RELEASE)) $(ARGS)

.PHONY: rotate
rotate: ## Renew secrets of an environment, one or several: make rotate ENV=preprod SECRET=fernet_key,jwt_secret
	@bin/setup
	@$(WITH_VAULT) $(PLAYBOOK) playbooks/rotate.yml --extra-vars 'rotate_secrets=$(SECRET)' $(ARGS)

.PHONY: triage
triage: ## After a leak, list what an intruder could have left, without a change: make triage ENV=preprod
	@bin/setup
	@$(WITH_VAULT) $(PLAYBOOK) playbooks/triage.yml $(ARGS)

.PHONY: releases
releases: ## Say which releases there are, who deployed them, when, and which is live: make releases ENV=preprod
	@bin/setup
	@$(WITH_VAULT) $(PLAYBOOK) playbooks/releases.yml $(ARGS)

.PHONY: canary
canary: ## Prove that an environment works, by a DAG run and its log: make canary ENV=preprod
	@bin/setup
	@$(WITH_VAULT) $(PLAYBOOK) playbooks/canary.yml $(ARGS)

.PHONY: unlock
unlock: ## Break the lock of a deploy that hangs or whose machine is gone: make unlock ENV=preprod
	@bin/setup
	@$(WITH_VAULT) $(PLAYBOOK) playbooks/unlock.yml $(ARGS)

.PHONY: plan
plan: ## Write what `make site` would change to .cache/plan/, with every secret masked: make plan ENV=preprod
	@$(SETUP_BUILD)
	@$(WITH_VAULT) bin/plan $(ENV)

##@ Versions

# Both as variables of the shell: a tag's name must not be read as commands.
.PHONY: release
release: ## Tag the tip of main as a version, once all is as it should be: make release VERSION=1.2.3
	@bin/release "$$VERSION"

.PHONY: release-check
release-check: ## Say whether a tag may be deployed: make release-check TAG=v1.2.3
	@bin/release --check "$$TAG"

##@ Tests

.PHONY: test
test: ## Run every test: lint, unit, dags and each Molecule scenario
	@bin/test

# The folders of this project. What else lies here is the team's, and so is its style.
OURS = bin group_vars inventories molecule playbooks roles tests
# The team's DAGs are looked at by its own rules, if it has any there.
EXAMPLES = $(or $(and $(wildcard dags/ruff.toml dags/.ruff.toml),dags),$(wildcard $(addprefix dags/, \
	log_canary.py repair_shops.py tests/test_log_canary.py tests/test_repair_shops.py)))

.PHONY: lint
lint: lock-check ## Check style and syntax of this project's files
	@bin/setup
	@ruff check --quiet $(OURS) $(EXAMPLES) && ruff format --quiet --check $(OURS) $(EXAMPLES)
	@yamllint --strict .ansible-lint .config .github .yamllint $(OURS)
	@bin/role-docs --check
	@bin/check-links *.md docs/*.md roles/README.md roles/*/README.md
	@for source in docs/*.dot; do \
		grep --quiet "$$(git hash-object $$source) -->" $${source%.dot}.svg || \
			{ echo "lint: $$source has changed: run 'make picture'" >&2; exit 1; }; \
	done
	@bin/workflow-scripts .cache/workflows && shellcheck .cache/workflows/*.sh .ci/run $$(grep --directories=skip --files-with-matches '^#!.*bash' bin/*)
	@check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	@zizmor --offline -qq --no-progress --strict-collection .github
	@ansible-lint --offline -q $(filter-out bin,$(OURS))
	@for inventory in inventories/*; do ansible-inventory -i $$inventory --graph >/dev/null || exit 1; done

.PHONY: unit
unit: ## Test modules, templates, role interfaces and the preflight
	@bin/setup
	@pytest --quiet --numprocesses auto --dist worksteal tests/unit

.PHONY: test-dags
test-dags: ## Test the project's DAGs in the servers' own environment: make test-dags ARGS='-m slow'
	@bin/setup dags
	@bin/dag_tests.py $(ARGS)

.PHONY: test-airflow
test-airflow: ## Test what the roles add to Airflow, in that environment
	@bin/setup dags
	@.venv-airflow/bin/python bin/airflow-settings | diff - roles/airflow/vars/main/settings.yml || \
		{ echo "test-airflow: the locked Airflow has other settings: run 'make lock'" >&2; exit 1; }
	@.venv-airflow/bin/python -m pytest --quiet tests/airflow

.PHONY: molecule
molecule: ## Test a scenario on fresh hosts: make molecule SCENARIO=default DEBIAN=13
	@bin/setup docker $(if $(filter-out default,$(SCENARIO)),,browser)
	@COLUMNS=160 molecule test --scenario-name $(or $(SCENARIO),default)

.PHONY: test-vm
test-vm: ## Test the site on a fresh VM, whose CPU is emulated unless LVAO_VM_ACCELERATION=kvm
	@bin/setup vm browser
	@vagrant status --machine-readable | grep --quiet ',state,not_created$$' || \
		{ echo "make: there is a VM already: 'vagrant destroy' removes it with its data, then try again" >&2; exit 1; }
	@molecule reset --scenario-name vagrant --no-report # of a run that was killed, it would believe that its VM is there
	@box=$$(bin/vm-box $(DEBIAN)) && LVAO_VM_BOX=$$box COLUMNS=160 molecule test --scenario-name vagrant

.PHONY: bench
bench: ## Measure what an operator waits for
	@bin/setup docker
	@pytest --quiet --capture=no tests/bench

##@ Maintenance

# A release that turns out to be malicious is mostly withdrawn within days. Versions that are locked already are kept, however young.
export LOCK_AGE ?= 7 days

.PHONY: lock
lock: ## Lock the packages that pyproject.toml names in requirements/, keep the others' versions, and renew what is derived
	@bin/setup
	@bin/lock.py $(LOCK_OPTIONS)
	@bin/setup dags
	@bin/lock.py --settings

.PHONY: upgrade
upgrade: LOCK_OPTIONS = --upgrade
upgrade: lock ## The same, with the latest version of each that is a week old: LOCK_AGE='0 days' takes a fix at once

.PHONY: lock-check
lock-check: ## Check that requirements/ locks what pyproject.toml asks for
	@bin/setup
	@bin/lock.py --check

.PHONY: audit
audit: ## Look for known vulnerabilities in the locked packages, in the database of PyPI
	@bin/setup
	@bin/audit $(ARGS)

.PHONY: docs
docs: ## Renew the roles' pages, after a change of their variables
	@bin/setup
	@bin/role-docs

.PHONY: picture
picture: ## Renew the pictures that are drawn from docs/*.dot (needs graphviz)
	@for source in docs/*.dot; do \
		dot -Tsvg $$source -o $${source%.dot}.svg && \
		echo "<!-- of $$source as it was at $$(git hash-object $$source) -->" >>$${source%.dot}.svg || exit 1; \
	done
