use super::*;

const HEADS: [Head; 7] = [Blank, Stale, Rotten, OtherVersion, Misplaced, Stranger, Next];

fn every_sight() -> Vec<Sight> {
    let mut sights = Vec::new();
    for &anchored in EITHER {
        for head in HEADS {
            for &sectors in ANY_SECTORS {
                for &body_sound in EITHER {
                    for &after in ANY_AFTER {
                        sights.push(Sight { anchored, head, sectors, body_sound, after });
                    }
                }
            }
        }
    }
    sights
}

#[test]
fn every_combination_matches_exactly_one_row() {
    let sights = every_sight();
    assert_eq!(sights.len(), 2 * 7 * 4 * 2 * 4);
    for sight in sights {
        let rows: Vec<_> = RECOVERY_CASES
            .iter()
            .filter(|case| case.matches(&sight))
            .map(|case| case.name)
            .collect();
        assert_eq!(rows.len(), 1, "{sight:?} matches {rows:?}");
    }
}

#[test]
fn every_row_is_matched_and_has_a_name_of_its_own() {
    let sights = every_sight();
    for case in RECOVERY_CASES {
        assert!(sights.iter().any(|sight| case.matches(sight)), "{}", case.name);
        let same_name = RECOVERY_CASES.iter().filter(|other| other.name == case.name).count();
        assert_eq!(same_name, 1, "{}", case.name);
    }
}

/// The rules behind the table, said a second time and in another way.
#[test]
fn no_row_gives_more_than_the_rules_allow() {
    for sight in every_sight() {
        let nothing_behind = sight.after == Nothing;
        let allowed = match case_of(&sight).decision {
            Stop => true,
            // Due here, complete, unchanged.
            Accept => sight.head == Next && sight.sectors == Whole && sight.body_sound,
            // Everything from a known place on is unwritten.
            End => sight.anchored && sight.sectors == Unwritten && nothing_behind,
            // Sectors are missing, none is wrong, nothing proves that the batch was durable.
            Cut => sight.anchored && sight.sectors == Holes && nothing_behind,
            // Either the rest of the segment is unwritten, or the next one has the batch that is due.
            NextSegment => {
                sight.anchored
                    && !nothing_behind
                    && (sight.sectors == Unwritten || sight.after == NextContinues)
            }
        };
        assert!(allowed, "{sight:?}: {}", case_of(&sight).name);
    }
}

/// Stale or zero: both say that nothing was written here.
#[test]
fn a_stale_head_decides_what_a_blank_one_decides() {
    for sight in every_sight().into_iter().filter(|sight| sight.head == Stale) {
        let blank = Sight { head: Blank, ..sight };
        assert_eq!(case_of(&sight).name, case_of(&blank).name, "{sight:?}");
    }
}

#[test]
fn rows_that_never_happen_stop() {
    for case in RECOVERY_CASES.iter().filter(|case| case.name.starts_with("never")) {
        assert_eq!(case.decision, Stop, "{}", case.name);
    }
}
