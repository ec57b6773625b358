"""The ini files, what stands in them, and the policy file."""

from __future__ import annotations

import configparser
import difflib
import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from oslo_config import cfg

from os_interface_ext import conf as config
from os_interface_ext import exceptions
from os_interface_ext.checks.check import Finding, error, failure, ok, warning
from os_interface_ext.checks.installation import Installation
from os_interface_ext.policies import Enforcer

#: Files beside ours that are other programs'.
_OF_OTHERS = ('agent.conf',)
#: What oslo.config itself reads, on the command line.
_OSLO_CONFIG = ('config_file', 'config_dir', 'config_source', 'shell_completion')


def files(installation: Installation) -> Sequence[Finding]:
    """The files can be read, and none lies there that is not."""
    try:
        installation.read()
    except exceptions.ConfigurationError as failed:
        return [failure(failed, 'create or correct the file, and let this user read it')]
    found = list(_not_read(list(installation.written)))
    if found:
        return found
    if not installation.written and not installation.overrides:
        cure = f'write {config.DEFAULT_FILE} (beside it lies a sample), or name a file with --config-file'
        return [warning('no file is read: every option has its default', cure)]
    return [ok(', '.join(installation.written) or 'none, beside the command line')]


def _not_read(read: Sequence[str]) -> Iterator[Finding]:
    known = {os.path.realpath(name) for name in read}
    folder = os.path.dirname(config.DEFAULT_FILE)
    for name in sorted(glob.glob(f'{folder}/*.conf')):
        if os.path.basename(name) not in _OF_OTHERS and os.path.realpath(name) not in known:
            yield warning(
                f'{name} is not read',
                f'remove it, or name it with --config-file, in ${config.ENV_FILES} or in the paste file',
            )
    for name in sorted(glob.glob(f'{folder}/*.conf.d')):
        yield warning(f'{name} is not read', f'move what stands there into {config.DEFAULT_FILE}')
    for name in sorted(set(_of_paste(f'{folder}/api-paste.ini'))):
        if os.path.realpath(name) not in known:
            yield warning(
                f'{name} is read by the application of {folder}/api-paste.ini, but not here',
                'name the same file everywhere, also for the reconciler and for this command (--config-file)',
            )


def _of_paste(path: str) -> Iterator[str]:
    """The configuration files that a paste file names."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read(path)
    except configparser.Error:
        # Whoever serves it says what is wrong.
        return
    for section in parser.sections():
        if parser.has_option(section, 'config_file'):
            yield parser.get(section, 'config_file')


def values(installation: Installation) -> Sequence[Finding]:
    """The values are of the type and within the bounds that their options want."""
    cure = 'correct the value; etc/os-interface-ext/os-interface-ext.conf.sample tells what is allowed'
    found = [error(problem.operator, cure) for problem in config.problems(installation.conf)]
    return found or [ok('all values are valid')]


def names(installation: Installation) -> Sequence[Finding]:
    """There are such groups and options."""
    known = installation.known()
    found = [
        finding
        for file, sections in installation.written.items()
        for section, options in sections.items()
        for finding in _of_section(file, section, options, known)
    ]
    return found or [ok('all groups and options are known')]


def _of_section(
    file: str, section: str, options: Iterable[str], known: Mapping[str, Mapping[str, cfg.Opt]]
) -> Iterator[Finding]:
    group = section if section in known else section.lower()
    if group not in known:
        yield warning(f'{file}: there is no group [{section}]', _nearest(section, known, '[{}]', 'remove it'))
        return
    for name in options:
        if name in known[group] or (group == 'DEFAULT' and name in _OSLO_CONFIG):
            continue
        if list(_renamed_to(group, name, known)):
            # The check of renamed options tells.
            continue
        elsewhere = sorted(other for other in known if name in known[other])
        nearest = _nearest(name, known[group], '{}', 'remove it')
        if nearest == 'remove it' and elsewhere:
            nearest = f'move it to [{elsewhere[0]}]'
        yield warning(f'{file}: [{section}] has no option {name}', nearest)


def _nearest(name: str, known: Iterable[str], form: str, otherwise: str) -> str:
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f'did you mean {form.format(matches[0])}?' if matches else otherwise


def renamed(installation: Installation) -> Sequence[Finding]:
    """No option stands under a name that it had once, and none that is about to go."""
    known = installation.known()
    found = []
    for file, sections in installation.written.items():
        for section, options in sections.items():
            group = section if section in known else section.lower()
            for name in options:
                option = known.get(group, {}).get(name)
                if option is not None and option.deprecated_for_removal:
                    why = ' '.join((option.deprecated_reason or 'it will not be read any more').split())
                    found.append(warning(f'{file}: [{section}] {name} is about to go', f'remove it: {why}'))
                elif option is None:
                    for now in _renamed_to(group, name, known):
                        what = f'{file}: [{section}] {name} has another name now'
                        found.append(warning(what, f'write {now}'))
    return found or [ok('no option has an old name')]


def _renamed_to(group: str, name: str, known: Mapping[str, Mapping[str, cfg.Opt]]) -> Iterator[str]:
    for now, options in known.items():
        for option in options.values():
            for old in option.deprecated_opts:
                if (old.group or now, old.name or option.dest) == (group, name):
                    yield f'[{now}] {option.dest}'


def policy(installation: Installation) -> Sequence[Finding]:
    """The policy file can be used, and its rules are known."""
    cure = 'correct the file; oslopolicy-sample-generator --namespace os-interface-ext tells all rules'
    try:
        enforcer = Enforcer(installation.conf)
        enforcer.check()
    except Exception as failed:
        return [failure(failed, cure)]
    rules = enforcer.known_rules()
    found = [
        warning(f'the policy file has an unknown rule {name}', _nearest(name, rules, '{}', 'remove it'))
        for name in sorted(enforcer.rules_of_files() - rules)
        if name.startswith('os_compute_api:os-attach-interfaces') or ':' not in name
    ]
    return found or [ok(f'{len(rules)} rules, {len(enforcer.rules_of_files())} of them in a file')]
