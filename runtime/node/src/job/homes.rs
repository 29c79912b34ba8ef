//! Where a client's update belongs while homes move, and what cannot be told from a repeat.
//!
//! When a client's home moves, the new one asks the earlier ones before it takes anything. Until when? An earlier home
//! takes the client's updates as long as it follows a placement from before, and nobody else knows how long that is:
//! rounds go on meanwhile. So each answer says which placement the member follows, and which round is open there. Once
//! it follows the move, whatever it has taken was trained for that round or one before; of later ones it need not be
//! asked.
//!
//! Who says that it has nothing promises the update to who asks. Homes may come back to where they were, so a promise is to
//! the home by one placement. It ends when the one that made it is the home by a later placement, and has asked in its
//! turn; who asks by an earlier placement than that is told so, and promised nothing. Of two nodes that follow different
//! placements, only the later one's is ever free to take the update.
//!
//! An earlier home that has gone cannot be asked. What it had of the open round is lost, so the update may come again, once
//! the leader knows that it has gone as well: until then it would take that node's partial.
//! What it had of rounds before is in their models, as far as its partials were in time; an update that was trained for
//! one of those could be a repeat, and is not taken. The same holds for a node that has begun anew.

use super::intake::Refusal;
use super::part::Part;
use super::{Home, Inner, Job, MemberRefusal};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tributary_api::placement::{Directive, Member, Placement};
use tributary_api::{ClientName, Name};

/// What a member says of a client's update that it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holding {
    /// It has the update; if not, it will take none.
    pub held: bool,
    /// The placement that it follows.
    #[serde(default)]
    pub generation: u64,
    /// The round that is open there.
    #[serde(default)]
    pub round: u64,
    /// The first round of which it knows everything that it took.
    #[serde(default)]
    pub since: u64,
}

/// What a node knows of who follows its placement.
#[derive(Debug)]
pub(super) struct Moves {
    /// The round that was open when the placement was taken over.
    pub since: u64,
    /// The round that was open when the leader was first known to follow it as well.
    leader: Option<u64>,
    /// The same of members that were asked.
    members: BTreeMap<Name, u64>,
    /// The first round of which this node knows everything that it took; `None` before it has heard which one is open.
    knows: Option<u64>,
}

impl Moves {
    /// Those of a node that begins with a round.
    pub(super) fn begin(placement: &Placement, node: &Name, round: u64) -> Self {
        let leads = placement.leader == *node;
        // Nobody took anything before the first round of a new job.
        let new = placement.generation == 1 && round == 1;
        let knows = match (new, leads) {
            (true, _) => Some(round),
            (false, true) => Some(round + 1),
            (false, false) => None,
        };
        Self {
            knows,
            ..Self::follow(placement, node, round, None)
        }
    }

    /// Another placement is taken over.
    pub(super) fn next(&self, placement: &Placement, node: &Name, round: u64) -> Self {
        let leads = placement.leader == *node;
        let knows = self.knows.or_else(|| leads.then_some(round + 1));
        Self::follow(placement, node, round, knows)
    }

    fn follow(placement: &Placement, node: &Name, round: u64, knows: Option<u64>) -> Self {
        Self {
            since: round,
            leader: (placement.leader == *node).then_some(round),
            members: BTreeMap::new(),
            knows,
        }
    }

    /// Takes note of what the leader says while the round `open` is open here.
    pub(super) fn hear(&mut self, generation: u64, directive: &Directive, open: u64) {
        let round = open.max(directive.version);
        self.knows.get_or_insert(round + 1);
        if directive.generation >= generation {
            self.leader.get_or_insert(round);
        }
    }

    /// The first round of which this node knows everything that it took.
    pub(super) fn knows(&self) -> u64 {
        self.knows.unwrap_or(u64::MAX)
    }

    /// Whether a member may have taken an update that was trained for a round.
    fn may_have(&self, member: &Name, trained: u64) -> bool {
        self.members
            .get(member)
            .is_none_or(|since| trained <= *since)
    }

    /// As [`Self::may_have`], for a node that is no member any more.
    fn may_have_had(&self, trained: u64) -> bool {
        self.leader.is_none_or(|since| trained <= since)
    }
}

impl Job {
    /// Where an update of the client belongs now; `trained` is the round that it was trained for, else the open one.
    pub(crate) fn home(&self, client: &ClientName, trained: Option<u64>) -> Home {
        let mut state = self.lock();
        let Some(part) = &state.part else {
            return Home::Here;
        };
        let open = state.round.number();
        let trained = trained.unwrap_or(open);
        if state.book_with(client, trained).is_some() {
            return Home::Here;
        }
        let home = match part.placement.home(client) {
            Some(home) if home.node != self.node => return Home::At(home.url.clone()),
            // Nobody will take it.
            _ if trained < open && state.check_round(trained).is_err() => return Home::Here,
            _ => part.home_here(&self.node, client, trained),
        };
        if home == Home::Here {
            let generation = part.placement.generation;
            state.take_back(client, trained, generation);
        }
        home
    }

    /// The client's home by the placement `asked` asks for its update for the round `trained`.
    ///
    /// # Errors
    /// [`MemberRefusal::Behind`] if that placement is an earlier one, and this is the home now.
    pub(crate) fn holds(
        &self,
        client: &ClientName,
        trained: u64,
        asked: Option<u64>,
    ) -> Result<Holding, MemberRefusal> {
        let mut state = self.lock();
        let held = state.book_with(client, trained).is_some();
        let (round, since) = (state.round.number(), state.known_since());
        let current = trained >= state.taken_since();
        let mut own = 0;
        if let Some(part) = &mut state.part {
            own = part.placement.generation;
            // A node of an earlier version does not say.
            let asked = asked.unwrap_or(own);
            if !held && current {
                part.promise(&self.node, client, trained, asked)?;
            }
        }
        Ok(Holding {
            held,
            generation: own,
            round,
            since,
        })
    }

    /// The client's update for the round `trained` may be taken here, as far as all of its earlier homes are concerned:
    /// none has it, as each has told the home by the placement `generation`.
    pub(crate) fn is_home_by(&self, client: &ClientName, trained: u64, generation: u64) {
        self.lock().take_back(client, trained, generation);
    }

    /// Takes note of what an earlier home says, which does not have the update.
    pub(crate) fn heard_of_home(
        &self,
        member: &Name,
        trained: u64,
        holding: &Holding,
    ) -> Result<(), Refusal> {
        let mut state = self.lock();
        let open = state.round.number();
        if let Some(part) = &mut state.part
            && holding.generation >= part.placement.generation
        {
            let members = &mut part.moves.members;
            members.entry(member.clone()).or_insert(holding.round);
        }
        if trained < open && trained < holding.since {
            let since = holding.since.min(open);
            return Err(Refusal::Forgotten { open, since });
        }
        Ok(())
    }
}

impl Part {
    /// An update whose home this is: earlier ones may have to be asked first.
    fn home_here(&self, node: &Name, client: &ClientName, trained: u64) -> Home {
        let asked = self.earlier(client).filter(|home| *home != node);
        let asked = asked.filter(|home| self.moves.may_have(home, trained));
        let asked: Vec<Member> = asked
            .filter_map(|home| self.placement.member(home.as_str()).cloned())
            .collect();
        if asked.is_empty() {
            Home::Here
        } else {
            Home::HereUnless(asked, self.placement.generation)
        }
    }

    /// Promises an update that is not here to the client's home by the placement `asked`.
    fn promise(
        &mut self,
        node: &Name,
        client: &ClientName,
        trained: u64,
        asked: u64,
    ) -> Result<(), MemberRefusal> {
        let own = self.placement.generation;
        let home = self.placement.home(client);
        if asked < own && home.is_none_or(|home| home.node == *node) {
            return Err(MemberRefusal::Behind { asked, own });
        }
        let promised = self.promised.entry((client.clone(), trained)).or_default();
        *promised = asked.max(*promised);
        Ok(())
    }

    /// The client's homes before this one.
    fn earlier(&self, client: &ClientName) -> impl Iterator<Item = &Name> {
        let tables = self.placement.earlier.iter();
        let homes: BTreeSet<&Name> = tables.filter_map(|homes| homes.of(client)).collect();
        homes.into_iter()
    }
}

impl Inner {
    /// Ends a promise to a home by an earlier placement.
    fn take_back(&mut self, client: &ClientName, trained: u64, generation: u64) {
        let Some(part) = &mut self.part else { return };
        let update = (client.clone(), trained);
        let promised = part.promised.get(&update);
        if promised.is_some_and(|to| *to < generation) {
            part.promised.remove(&update);
        }
    }

    /// Whether the client's new update for the round `trained` may be entered here: its home may have moved while it
    /// came, or the round may have ended that it was meant for.
    pub(super) fn check_client(
        &self,
        node: &Name,
        client: &ClientName,
        trained: u64,
    ) -> Result<(), Refusal> {
        let Some(part) = &self.part else {
            return Ok(());
        };
        let home = part.placement.home(client);
        let promised = part.promised.contains_key(&(client.clone(), trained));
        if home.is_some_and(|home| home.node != *node) || promised {
            return Err(Refusal::Moved);
        }
        let gone = |home: &Name| part.placement.member(home.as_str()).is_none();
        if !part.earlier(client).any(gone) {
            return Ok(());
        }
        // As long as the leader does not know that it has gone, it takes what it had.
        if part.moves.leader.is_none() {
            return Err(Refusal::Moved);
        }
        let open = self.round.number();
        if trained < open && part.moves.may_have_had(trained) {
            return Err(Refusal::Forgotten { open, since: open });
        }
        Ok(())
    }
}
