"""The rules that others are made of; names and defaults are Nova's."""

from oslo_policy import policy

ADMIN = 'context_is_admin'
PROJECT_MEMBER_OR_ADMIN = 'rule:project_member_or_admin'
PROJECT_READER_OR_ADMIN = 'rule:project_reader_or_admin'

RULES = [
    policy.RuleDefault(ADMIN, 'role:admin', 'Who is an administrator.'),
    policy.RuleDefault(
        'project_member_api', 'role:member and project_id:%(project_id)s', 'Members of the project.'
    ),
    policy.RuleDefault(
        'project_reader_api', 'role:reader and project_id:%(project_id)s', 'Readers of the project.'
    ),
    policy.RuleDefault(
        'project_member_or_admin',
        'rule:project_member_api or rule:context_is_admin',
        'Members of the project, and administrators.',
    ),
    policy.RuleDefault(
        'project_reader_or_admin',
        'rule:project_reader_api or rule:context_is_admin',
        'Readers of the project, and administrators.',
    ),
]
