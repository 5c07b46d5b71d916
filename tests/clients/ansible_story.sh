#!/usr/bin/env bash
# Ansible's amazon.aws.kms_key and kms_key_info: made, unchanged at the second run, tagged, rotated, granted, deleted.
set -euo pipefail

export ANSIBLE_LOCALHOST_WARNING=False ANSIBLE_INVENTORY_UNPARSED_WARNING=False AWS_ENDPOINT_URL=$AWS_ENDPOINT_URL_KMS
cat >story.yaml <<YAML
- hosts: localhost
  gather_facts: false
  vars:
    ansible_python_interpreter: "$CLIENT_KIT/bin/python"
  tasks:
    - amazon.aws.kms_key: &key
        alias: story
        description: made by Ansible
        enable_key_rotation: true
        tags: {team: payments}
        policy: |
          {"Version": "2012-10-17", "Statement": [{"Sid": "root", "Effect": "Allow", "Action": "kms:*", "Resource": "*",
           "Principal": {"AWS": "arn:aws:iam::000000000000:root"}}]}
      register: made
    - assert: {that: [made is changed, made.key_state == "Enabled", made.tags.team == "payments"]}
    - amazon.aws.kms_key: *key
      register: again
    - assert: {that: [again is not changed, again.key_id == made.key_id]}
    - amazon.aws.kms_key:
        <<: *key
        tags: {team: fraud}
        purge_tags: true
        grants:
          - name: reader
            grantee_principal: arn:aws:iam::000000000000:role/reader
            operations: [Decrypt, RetireGrant]
      register: granted
    - assert: {that: [granted is changed, granted.tags.team == "fraud", granted.grants | length == 1]}
    - amazon.aws.kms_key_info:
        alias: story
      register: told
    - assert:
        that:
          - told.kms_keys | length == 1
          - told.kms_keys[0].enable_key_rotation
          - told.kms_keys[0].grants[0].name == "reader"
    - amazon.aws.kms_key: {alias: story, state: absent, pending_window: 7}
      register: gone
    - assert: {that: [gone is changed, gone.key_state == "PendingDeletion"]}
YAML
ansible-playbook -i localhost, -c local story.yaml
echo "the story holds"
