//! The text of `--help`, made from the table of flags.

use std::fmt::Write;

use super::flags::{Effect, FLAGS, Flag, Group};
use super::value::Kind;

const WIDTH: usize = 100;

pub fn text() -> String {
    let mut out = String::from(
        "Usage:\n\
        \x20 ringd [flags]      run a member\n\
        \x20 ringd check        verify a data directory; ringd check --help\n\
        \x20 ringd bench        load a server and measure it; ringd bench --help\n\
        \x20 ringd completion   print completions for bash, zsh or fish\n\
        \x20 ringd man          print the manual page\n\
        \x20 ringd --version    show the version\n\
        \x20 ringd --help       show this\n\n\
        Every flag can also be given by the environment: --data-dir as ETCD_DATA_DIR. The command\n\
        line wins. Durations are written like 100ms, 10s, 1h30m.\n",
    );
    for (group, title) in Group::ALL {
        let _ = writeln!(out, "\n{title}:");
        for flag in FLAGS {
            if let Effect::Obeyed(of, help) = flag.effect
                && of == group
            {
                entry(&mut out, flag, help);
            }
        }
    }
    list(&mut out, "Flags of etcd that are taken and have no effect here", |flag| {
        matches!(flag.effect, Effect::None(_) | Effect::Legacy)
    });
    out
}

fn entry(out: &mut String, flag: &Flag, help: &str) {
    let shown = match (flag.kind, flag.default) {
        (Kind::Text | Kind::Urls, default) => format!("'{default}'"),
        (_, default) => default.to_owned(),
    };
    let _ = writeln!(out, "  --{} {shown}", flag.name);
    wrap(out, help);
}

fn list(out: &mut String, title: &str, take: impl Fn(&Flag) -> bool) {
    let _ = writeln!(out, "\n{title}:");
    let names: Vec<_> = FLAGS.iter().filter(|flag| take(flag)).map(|flag| flag.name).collect();
    wrap(out, &names.join(" "));
}

fn wrap(out: &mut String, text: &str) {
    let mut column = 0;
    for word in text.split_whitespace() {
        if column > 0 && column + 1 + word.len() > WIDTH {
            out.push('\n');
            column = 0;
        }
        if column == 0 {
            out.push_str("      ");
            column = 6;
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.len();
    }
    out.push('\n');
}
