//! The published vectors TV1 to TV12 of the commit rule (consensus.md 5.7), on the incremental committer and on the
//! oracle.

use crate::committer::{Committer, Decision};
use crate::event::HaltReason;
use crate::oracle::{Mutation, Oracle};
use crate::schedule::Schedule;
use crate::testing::{Dag, Runner, bare_block, no_signature};
use crate::types::{LeaderSlot, Round, Stake};

const EQUAL: [Stake; 4] = [1, 1, 1, 1];

/// Runs a DAG through the committer, checks that the oracle says the same, and returns the runner.
fn run(dag: &Dag, leaders: u16, gc_depth: Round) -> Runner {
    let mut runner = Runner::new(&dag.committee, leaders, gc_depth);
    runner.accept_all(dag);
    let mut oracle = Oracle::new(dag.committee.clone(), gc_depth, Mutation::None);
    for (reference, parents) in &dag.blocks {
        oracle.insert(*reference, parents);
    }
    let lead = |round| runner.schedule.leaders(&dag.committee, round);
    let slots: Vec<(LeaderSlot, Option<Decision>)> =
        runner.decided.iter().map(|d| (d.slot, Some(d.decision))).chain(runner.committer.statuses()).collect();
    assert_eq!(slots, oracle.decide(&lead, LeaderSlot::default()));
    let commits: Vec<_> = oracle.commits(&lead).into_iter().map(|c| (c.leader, c.blocks)).collect();
    let own: Vec<_> = runner
        .commits
        .iter()
        .map(|(leader, blocks, _)| {
            let mut sorted = blocks.clone();
            sorted.sort_unstable();
            (*leader, sorted)
        })
        .collect();
    assert_eq!(own, commits);
    runner
}

fn check(text: &str, slots: &str, commits: &str) {
    let dag = Dag::parse(&EQUAL, text);
    let runner = run(&dag, 1, 60);
    assert_eq!(runner.slots(&dag), slots);
    assert_eq!(runner.flushes(&dag), commits);
}

const TV3: &str = "
    full 1
    A2: A1 B1 C1 D1
    B2: A1 B1 C1 D1
    C2: A1 B1 C1 D1
    D2: B1 C1 D1
    A3: A2 B2 C2
    B3: B2 C2 D2
    C3: A2 C2 D2
    D3: B2 C2 D2
    full 4
";

const TV4: &str = "
    full 1
    A2: A1 B1 C1 D1
    B2: A1 B1 C1 D1
    C2: B1 C1 D1
    D2: B1 C1 D1
    full 3
";

const TWINS: &str = "
    full 1
    A1': A0 B0 C0 D0
";

#[test]
fn tv1_full_rounds_commit_directly_and_pipelined() {
    check(
        "full 1..5",
        "1A COMMIT A1, 2B COMMIT B2, 3C COMMIT C3, 4D UNDECIDED, 5A UNDECIDED",
        "A1: A1 | B2: B1 C1 D1 B2 | C3: A2 C2 D2 C3",
    );
}

#[test]
fn tv1_step_wise_a_commit_comes_with_the_third_certificate() {
    let dag = Dag::parse(&EQUAL, "full 1..5");
    let mut runner = Runner::new(&dag.committee, 1, 60);
    let mut after = Vec::new();
    for (reference, parents) in &dag.blocks {
        runner.accept(*reference, parents);
        after.push((dag.label(reference).to_owned(), runner.commits.len()));
    }
    let first = |commits: usize| after.iter().find(|(_, n)| *n == commits).map(|(label, _)| label.as_str());
    assert_eq!((first(1), first(2), first(3)), (Some("C3"), Some("C4"), Some("C5")));
}

#[test]
fn tv2_a_missing_leader_is_skipped_directly() {
    check(
        "full 1\nfull 2..5 ACD",
        "1A COMMIT A1, 2B SKIP, 3C COMMIT C3, 4D UNDECIDED, 5A UNDECIDED",
        "A1: A1 | C3: B1 C1 D1 A2 C2 D2 C3",
    );
    let dag = Dag::parse(&EQUAL, "full 1\nfull 2..3 ACD");
    assert!(run(&dag, 1, 60).slots(&dag).contains("2B SKIP"));
}

#[test]
fn tv3_one_certificate_commits_through_the_anchor() {
    let b2 = "1A UNDECIDED, 2B COMMIT B2";
    check(TV3, &format!("{b2}, 3C UNDECIDED, 4D UNDECIDED"), "");
    check(&format!("{TV3}\nfull 5"), &format!("{b2}, 3C COMMIT C3, 4D UNDECIDED, 5A UNDECIDED"), "");
    check(
        &format!("{TV3}\nfull 5..6"),
        "1A COMMIT A1!, 2B COMMIT B2, 3C COMMIT C3, 4D COMMIT D4, 5A UNDECIDED, 6B UNDECIDED",
        "A1: A1 | B2: B1 C1 D1 B2 | C3: A2 C2 D2 C3 | D4: A3 B3 D3 D4",
    );
}

#[test]
fn tv4_no_certificate_skips_through_the_anchor() {
    let start = "1A UNDECIDED, 2B COMMIT B2, 3C COMMIT C3";
    check(&format!("{TV4}\nfull 4..5"), &format!("{start}, 4D UNDECIDED, 5A UNDECIDED"), "");
    check(
        &format!("{TV4}\nfull 4..6"),
        "1A SKIP!, 2B COMMIT B2, 3C COMMIT C3, 4D COMMIT D4, 5A UNDECIDED, 6B UNDECIDED",
        "B2: A1 B1 C1 D1 B2 | C3: A2 C2 D2 C3 | D4: A3 B3 D3 D4",
    );
}

#[test]
fn tv5a_one_version_of_an_equivocating_leader_commits_and_the_other_delivers_nothing() {
    check(
        &format!("{TWINS}\nfull 2 ABC from A1 B1 C1 D1\nD2: A1' B1 C1 D1\nfull 3..5"),
        "1A COMMIT A1, 2B COMMIT B2, 3C COMMIT C3, 4D UNDECIDED, 5A UNDECIDED",
        "A1: A1 | B2: B1 C1 D1 B2 | C3: A1' A2 C2 D2 C3 ~A1'",
    );
}

#[test]
fn tv5b_a_leader_split_in_halves_is_skipped_through_the_anchor() {
    let split = format!("{TWINS}\nfull 2 AB from A1 B1 C1 D1\nfull 2 CD from A1' B1 C1 D1");
    check(&format!("{split}\nfull 3"), "1A UNDECIDED, 2B UNDECIDED, 3C UNDECIDED", "");
    check(
        &format!("{split}\nfull 3..6"),
        "1A SKIP!, 2B COMMIT B2, 3C COMMIT C3, 4D COMMIT D4, 5A UNDECIDED, 6B UNDECIDED",
        "B2: A1 B1 C1 D1 B2 | C3: A1' A2 C2 D2 C3 ~A1' | D4: A3 B3 D3 D4",
    );
}

#[test]
fn tv5c_a_leader_with_split_votes_is_skipped_per_version() {
    check(
        &format!("{TWINS}\nA2: A1 B1 C1 D1\nB2: A1' B1 C1 D1\nC2: B1 C1 D1\nD2: B1 C1 D1"),
        "1A SKIP, 2B UNDECIDED",
        "",
    );
}

#[test]
fn tv6_a_crashed_validator_only_loses_its_own_slots() {
    check(
        "full 1\nfull 2..8 ACD",
        "1A COMMIT A1, 2B SKIP, 3C COMMIT C3, 4D COMMIT D4, 5A COMMIT A5, 6B SKIP, 7C UNDECIDED, 8D UNDECIDED",
        "A1: A1 | C3: B1 C1 D1 A2 C2 D2 C3 | D4: A3 D3 D4 | A5: A4 C4 A5",
    );
}

#[test]
fn tv7_an_equivocating_voter_counts_on_both_sides_without_harm() {
    check(
        "
        full 1
        A2: A1 B1 C1 D1
        B2: A1 B1 C1 D1
        C2: B1 C1 D1
        D2: A1 B1 C1 D1
        D2': B1 C1 D1
        A3: A2 B2 C2 D2
        B3: A2 B2 C2 D2
        C3: A2 B2 C2 D2'
        D3: A2 B2 C2 D2
        full 4..5
        ",
        "1A COMMIT A1, 2B COMMIT B2, 3C COMMIT C3, 4D UNDECIDED, 5A UNDECIDED",
        "A1: A1 | B2: B1 C1 D1 B2 | C3: A2 C2 D2' C3",
    );
}

#[test]
fn tv8_the_anchor_search_passes_over_a_skipped_slot() {
    let start = format!("{TV4}\nfull 4 ABC\nfull 5 ABC from A4 B4 C4\nD5: A4 B4 C4 D3");
    check(
        &format!("{start}\nfull 6"),
        "1A UNDECIDED, 2B COMMIT B2, 3C COMMIT C3, 4D SKIP, 5A UNDECIDED, 6B UNDECIDED",
        "",
    );
    check(
        &format!("{start}\nfull 6..7"),
        "1A SKIP!, 2B COMMIT B2, 3C COMMIT C3, 4D SKIP, 5A COMMIT A5, 6B UNDECIDED, 7C UNDECIDED",
        "B2: A1 B1 C1 D1 B2 | C3: A2 C2 D2 C3 | A5: A3 B3 D3 A4 B4 C4 A5",
    );
}

#[test]
fn tv9_an_undecided_slot_stops_the_anchor_search() {
    let start = format!("{TV4}\nfull 4\nA5: A4 B4 C4\nB5: A4 B4 C4 D4\nC5: A4 B4 C4\nD5: A4 B4 C4 D4\nfull 6..7");
    let open = "1A UNDECIDED, 2B COMMIT B2, 3C COMMIT C3, 4D UNDECIDED, 5A COMMIT A5";
    check(&start, &format!("{open}, 6B UNDECIDED, 7C UNDECIDED"), "");
    check(&format!("{start}\nfull 8"), &format!("{open}, 6B COMMIT B6, 7C UNDECIDED, 8D UNDECIDED"), "");
    check(
        &format!("{start}\nfull 8..9"),
        "1A SKIP!, 2B COMMIT B2, 3C COMMIT C3, 4D SKIP!, 5A COMMIT A5, 6B COMMIT B6, 7C COMMIT C7, \
         8D UNDECIDED, 9A UNDECIDED",
        "B2: A1 B1 C1 D1 B2 | C3: A2 C2 D2 C3 | A5: A3 B3 D3 A4 B4 C4 A5 | B6: D4 B5 C5 D5 B6 | C7: A6 C6 D6 C7",
    );
}

#[test]
fn tv10_garbage_collection_is_part_of_the_rule() {
    let dag = Dag::parse(
        &EQUAL,
        "
        full 1
        full 2 ABC from A1 B1 C1
        full 3..5 ABC
        D2: D1 A1 B1 C1
        D3: D2 A2 B2 C2
        A6: A5 B5 C5 D3
        B6: A5 B5 C5
        C6: A5 B5 C5
        full 7..10 ABC
        ",
    );
    let runner = run(&dag, 1, 3);
    assert_eq!(
        runner.slots(&dag),
        "1A COMMIT A1, 2B COMMIT B2, 3C COMMIT C3, 4D SKIP, 5A COMMIT A5, 6B COMMIT B6, 7C COMMIT C7, 8D SKIP, \
         9A UNDECIDED, 10B UNDECIDED"
    );
    assert_eq!(
        runner.flushes(&dag),
        "A1: A1 | B2: B1 C1 B2 | C3: A2 C2 C3 | A5: A3 B3 A4 B4 C4 A5 | B6: B5 C5 B6 | C7: A6 C6 C7"
    );
    assert_eq!(runner.linearizer.gc_round(), 4);
}

#[test]
fn tv11_two_leaders_of_a_round_commit_one_after_the_other() {
    let dag = Dag::parse(&EQUAL, "full 1..4");
    let runner = run(&dag, 2, 60);
    assert!(
        runner
            .slots(&dag)
            .starts_with("1A COMMIT A1, 1B COMMIT B1, 2B COMMIT B2, 2C COMMIT C2, 3C UNDECIDED, 3D UNDECIDED")
    );
    assert_eq!(runner.flushes(&dag), "A1: A1 | B1: B1 | B2: C1 D1 B2 | C2: C2");
}

#[test]
fn tv11b_two_leaders_with_one_crashed() {
    let dag = Dag::parse(&EQUAL, "full 1\nfull 2..5 ACD");
    let runner = run(&dag, 2, 60);
    assert!(
        runner
            .slots(&dag)
            .starts_with("1A COMMIT A1, 1B COMMIT B1, 2B SKIP, 2C COMMIT C2, 3C COMMIT C3, 3D COMMIT D3, 4D UNDECIDED")
    );
    assert_eq!(runner.flushes(&dag), "A1: A1 | B1: B1 | C2: C1 D1 C2 | C3: A2 D2 C3 | D3: D3");
}

#[test]
fn tv12_stake_counts_not_heads() {
    let dag = Dag::parse(
        &[3, 2, 2, 1],
        "
        full 1
        A2: A1 B1 C1 D1
        B2: A1 B1 C1 D1
        C2: A1 B1 C1
        D2: B1 C1 D1 A1
        full 3..4 ABC
        A5: A4 B4 C4
        ",
    );
    let runner = run(&dag, 1, 60);
    assert_eq!(runner.slots(&dag), "1A COMMIT A1, 2B COMMIT B2, 3C UNDECIDED, 4D UNDECIDED, 5A UNDECIDED");
}

#[test]
fn two_certified_versions_halt_with_both_names() {
    let dag = Dag::parse(
        &EQUAL,
        &format!(
            "{TWINS}
            full 2 ABC from A1 B1 C1 D1
            A2': A1' B1 C1 D1
            B2': A1' B1 C1 D1
            C2': A1' B1 C1 D1
            full 3 ABC from A2 B2 C2
            A3': A2' B2' C2'
            B3': A2' B2' C2'
            C3': A2' B2' C2'"
        ),
    );
    let schedule = Schedule::rotating(4, 1, u32::MAX);
    let mut committer = Committer::new(LeaderSlot::default());
    let mut verdicts = dag.blocks.iter().map(|(reference, parents)| {
        let block = bare_block(&no_signature(), *reference, parents.clone(), 0);
        committer.on_accept(&dag.committee, &schedule, *reference, &block)
    });
    let halt = verdicts.find_map(Result::err).expect("more than F are faulty");
    let HaltReason::TwoCertified { a, b } = halt else { panic!("{halt}") };
    let mut names = [dag.label(&a), dag.label(&b)];
    names.sort_unstable();
    assert_eq!(names, ["A1", "A1'"]);
}

#[test]
fn a_slot_with_three_versions_commits_the_certified_one() {
    check(
        &format!("{TWINS}\nA1'': A0 B0 C0 D0\nfull 2 ABC from A1' B1 C1 D1\nD2: A1'' B1 C1 D1\nfull 3..5"),
        "1A COMMIT A1', 2B COMMIT B2, 3C COMMIT C3, 4D UNDECIDED, 5A UNDECIDED",
        "A1': A1' | B2: B1 C1 D1 B2 | C3: A1'' A2 C2 D2 C3 ~A1''",
    );
}
