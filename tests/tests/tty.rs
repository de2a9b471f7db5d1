//! Terminals: `ctr run -t` and `ctr task exec -t` on a real pseudo-terminal. The typed commands
//! have quotes inside their words, so that their echo is not mistaken for their output.

use harness::dist::patience;
use harness::oracle::compare;
use harness::pty::Terminal;

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[test]
fn a_container_has_a_terminal_that_echoes_edits_and_resizes() {
    compare(|scene| {
        let mut terminal = scene.terminal("c", &[], &["sh"]);
        let limit = patience(60.0);
        terminal.send("echo rea''dy; tty; test -t 0 -a -t 1 -a -t 2 && echo all''three\n");
        terminal.screen.expect("ready\r", limit);
        let at = terminal.screen.expect("allthree\r", limit);
        assert!(
            terminal.screen.now().text().contains("/dev/"),
            "no terminal: {:?}",
            terminal.screen.now().text()
        );

        terminal.send("until stty size 2>&1 | grep 80; do usleep 10000; done\n");
        let at = terminal.screen.expect_after(at, "24 80\r", limit);
        let script =
            r#"trap "echo chan''ged; exit" WINCH; echo tra''pped; while :; do usleep 50000; done"#;
        terminal.send(&format!("sh -c {}\n", quote(script)));
        let at = terminal.screen.expect_after(at, "trapped\r", limit);
        let at = terminal.resize_until(50, 132, at, "changed\r", limit);
        terminal.send("until stty size | grep 132; do usleep 10000; done\n");
        let at = terminal.screen.expect_after(at, "50 132\r", limit);

        terminal.send("(echo as''leep; sleep 1000)\n");
        let at = terminal.screen.expect_after(at, "asleep\r", limit);
        terminal.send("\u{3}");
        let at = terminal.screen.expect_after(at, "^C", limit);
        terminal.send("echo code $?\n");
        terminal.screen.expect_after(at, "code 130\r", limit);
        terminal.send("exit 5\n");

        let output = terminal.finish(limit).exits(5);
        scene.see("exit code", output.code);
        scene.see_events("c");
    });
}

#[test]
fn end_of_input_on_a_terminal_ends_the_shell() {
    compare(|scene| {
        let mut terminal = scene.terminal("c", &[], &["sh"]);
        terminal.screen.expect("# ", patience(60.0));

        terminal.send("\u{4}");

        scene.see("exit code", terminal.finish(patience(30.0)).code);
    });
}

#[test]
fn a_program_on_a_terminal_writes_one_stream_with_returns() {
    compare(|scene| {
        let terminal = scene.terminal("c", &[], &["sh", "-c", "echo out; echo err >&2; exit 3"]);

        let output = terminal.finish(patience(60.0)).exits(3);

        scene.see_output("screen", &output);
        // `ctr` leaves output processing on, which adds a second return.
        assert_eq!(output.out(), "out\r\r\nerr\r\r\n");
    });
}

#[test]
fn an_exec_has_a_terminal_of_its_own() {
    compare(|scene| {
        let limit = patience(60.0);
        scene.detach("c", &[], &["sleep", "1000"]);

        let mut terminal = Terminal::spawn(scene.exec_command("c", "e", &["-t"], &["sh"]), 24, 80);
        // `ctr` sends the size some time after the start.
        terminal.send("echo rea''dy; until stty size 2>&1 | grep 80; do usleep 10000; done\n");
        let at = terminal.screen.expect("ready\r", limit);
        let at = terminal.screen.expect_after(at, "24 80\r", limit);
        terminal.send("until stty size | grep 100; do usleep 10000; done\n");
        terminal.resize_until(30, 100, at, "30 100\r", limit);
        terminal.send("exit 9\n");

        let output = terminal.finish(limit).exits(9);
        scene.see("exit code", output.code);
        scene.task(&["kill", "-s", "KILL", "c"]).ok();
        scene.await_event("c", "/tasks/exit");
        scene.remove("c");
        scene.see_events("c");
    });
}
