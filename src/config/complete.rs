//! Completion for shells and the manual page, made from the table of flags as `--help` is.

use std::fmt::Write;

use super::flags::{Effect, FLAGS, Flag, Group, env_name};
use super::value::Kind;
use super::{UsageError, err};

const SUBCOMMANDS: &[(&str, &str)] = &[
    ("check", "Verify a data directory"),
    ("bench", "Load a server and measure it"),
    ("completion", "Print completions for a shell"),
    ("man", "Print the manual page"),
];

/// Flags that do something, and what.
fn obeyed() -> impl Iterator<Item = (&'static Flag, Group, &'static str)> {
    FLAGS.iter().filter_map(|flag| match flag.effect {
        Effect::Obeyed(group, help) => Some((flag, group, help)),
        _ => None,
    })
}

/// The script for a shell.
pub fn completion(shell: &str) -> Result<String, UsageError> {
    match shell {
        "bash" => Ok(bash()),
        "zsh" => Ok(zsh()),
        "fish" => Ok(fish()),
        other => Err(err(format!("completion for {other:?}: must be one of bash, zsh, fish"))),
    }
}

fn bash() -> String {
    let flags: Vec<_> = obeyed().map(|(flag, _, _)| format!("--{}", flag.name)).collect();
    let commands: Vec<_> = SUBCOMMANDS.iter().map(|(name, _)| *name).collect();
    let mut cases = String::new();
    for (flag, _, _) in obeyed() {
        if let Kind::OneOf(names) = flag.kind {
            let names = names.join(" ");
            let _ = writeln!(
                cases,
                "    --{}) COMPREPLY=($(compgen -W \"{names}\" -- \"$word\")); return ;;",
                flag.name
            );
        } else if is_path(flag.name) {
            let _ = writeln!(
                cases,
                "    --{}) COMPREPLY=($(compgen -f -- \"$word\")); return ;;",
                flag.name
            );
        }
    }
    format!(
        "# bash completion of ringd: source <(ringd completion bash)\n\
         _ringd() {{\n  \
         local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}\n  \
         COMPREPLY=()\n  \
         case $before in\n{cases}    \
         completion) COMPREPLY=($(compgen -W \"bash zsh fish\" -- \"$word\")); return ;;\n  \
         esac\n  \
         local words=\"{flags}\"\n  \
         [ \"$COMP_CWORD\" = 1 ] && words=\"$words {commands}\"\n  \
         COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n\
         }}\n\
         complete -F _ringd ringd\n",
        flags = flags.join(" "),
        commands = commands.join(" "),
    )
}

fn zsh() -> String {
    let mut out = String::from("#compdef ringd\n_arguments \\\n");
    for (flag, _, help) in obeyed() {
        let help = help.replace('\'', "'\\''").replace(['[', ']'], "").replace(':', "\\:");
        let action = match flag.kind {
            Kind::Bool => String::new(),
            Kind::OneOf(names) => format!(":value:({})", names.join(" ")),
            _ if is_path(flag.name) => ":path:_files".to_owned(),
            _ => ":value: ".to_owned(),
        };
        let _ = writeln!(out, "  '--{}=[{help}]{action}' \\", flag.name);
    }
    let commands: Vec<_> = SUBCOMMANDS.iter().map(|(name, _)| *name).collect();
    let _ = writeln!(out, "  '1::command:({})'", commands.join(" "));
    out
}

fn fish() -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let mut out = String::from("# fish completion of ringd: ringd completion fish | source\n");
    for (name, help) in SUBCOMMANDS {
        let _ =
            writeln!(out, "complete -c ringd -n __fish_use_subcommand -f -a {name} -d '{help}'");
    }
    for (flag, _, help) in obeyed() {
        let takes = match flag.kind {
            Kind::Bool => String::new(),
            Kind::OneOf(names) => format!(" -x -a '{}'", names.join(" ")),
            _ if is_path(flag.name) => " -r".to_owned(),
            _ => " -x".to_owned(),
        };
        let _ = writeln!(out, "complete -c ringd -l {}{takes} -d '{}'", flag.name, quoted(help));
    }
    out
}

fn is_path(name: &str) -> bool {
    name.ends_with("-dir") || name.ends_with("-file") || name == "log-outputs"
}

/// The manual page, in roff.
pub fn man() -> String {
    let mut out = String::from(
        ".TH RINGD 8\n.SH NAME\nringd \\- a drop-in etcd v3 server\n.SH SYNOPSIS\n.B ringd\n[flags]\n",
    );
    for (name, _) in SUBCOMMANDS {
        let _ = writeln!(out, ".br\n.B ringd {name}");
    }
    out.push_str(
        ".SH DESCRIPTION\nRuns a member of a cluster. Flags, environment, files and answers are those of etcd 3.7.\n\
         Each flag can also be given by the environment, and durations are written like 100ms, 10s, 1h30m.\n\
         .SH COMMANDS\n",
    );
    for (name, help) in SUBCOMMANDS {
        let _ = writeln!(out, ".TP\n.B {name}\n{help}.");
    }
    out.push_str(".SH OPTIONS\n");
    for (group, title) in Group::ALL {
        let _ = writeln!(out, ".SS {title}");
        for (flag, _, help) in obeyed().filter(|(_, of, _)| *of == group) {
            let default = if flag.default.is_empty() { "\"\"" } else { flag.default };
            let _ = writeln!(
                out,
                ".TP\n.BI \\-\\-{} \" {}\"\n{}\n.br\n{}",
                roff(flag.name),
                roff(default),
                roff(help),
                env_name(flag.name)
            );
        }
    }
    out.push_str(
        ".SH EXIT STATUS\n0 after a stop that was asked for, 2 for a command line that cannot be understood, 1 otherwise.\n",
    );
    out
}

/// Text in which nothing is a request or an escape.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}
