//! What each address space has cost: instructions at CPL 3, and the ways out of it. Counted where the dispatcher sees CPL 3
//! begin and end, and nowhere else.

use crate::{
    mode::Mode,
    state::{Cpu, cr4, efer},
};
use rustc_hash::FxHashMap;

/// Most address spaces that are told apart. A guest may make as many as it likes; the ones beyond are counted together.
const SPACES: usize = 4096;

/// How the CPU left CPL 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trap {
    /// SYSCALL, SYSENTER, INT n.
    SystemCall,
    /// A page fault.
    PageFault,
    /// Another exception.
    Exception,
    /// An interrupt.
    Interrupt,
    /// A call gate or a task switch.
    #[default]
    Gate,
}

impl Trap {
    /// All, in the order of [`AddressSpace::traps`].
    pub const ALL: [Trap; 5] =
        [Trap::SystemCall, Trap::PageFault, Trap::Exception, Trap::Interrupt, Trap::Gate];
}

/// What an address space has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressSpace {
    /// The guest-physical address of its top page table; `None` for those that are counted together.
    pub root: Option<u64>,
    /// Instructions run at CPL 3.
    pub instructions: u64,
    /// How often CPL 3 began.
    pub entries: u64,
    /// How often it ended, by [`Trap`].
    pub traps: [u64; 5],
}

/// All address spaces that a CPU has had.
#[derive(Default)]
pub(crate) struct Spaces {
    pub(crate) in_user: bool,
    /// What would be the way out of CPL 3 if this were it.
    pub(crate) way: Trap,
    /// Instructions that had run when CPL 3 began.
    since: u64,
    current: usize,
    list: Vec<AddressSpace>,
    by_root: FxHashMap<u64, usize>,
}

impl Spaces {
    fn select(&mut self, root: u64) {
        if self.list.get(self.current).is_some_and(|space| space.root == Some(root)) {
            return;
        }
        if self.list.is_empty() {
            self.list.push(AddressSpace::default());
        }
        self.current = match self.by_root.get(&root) {
            Some(&known) => known,
            None if self.list.len() > SPACES => 0,
            None => {
                self.list.push(AddressSpace { root: Some(root), ..AddressSpace::default() });
                self.by_root.insert(root, self.list.len() - 1);
                self.list.len() - 1
            }
        };
    }
}

impl Cpu {
    /// CPL 3 begins or ends here, if it does. Called by the dispatcher after whatever may have changed it.
    #[inline]
    pub(crate) fn cross_privilege(&mut self) {
        if self.mode.contains(Mode::USER) != self.spaces.in_user {
            self.crossed();
        }
    }

    fn crossed(&mut self) {
        let now = self.instructions();
        let root = self.address_space();
        let spaces = &mut self.spaces;
        spaces.in_user = !spaces.in_user;
        let way = std::mem::take(&mut spaces.way);
        if spaces.in_user {
            spaces.select(root);
            spaces.since = now;
        }
        let (current, since, in_user) = (spaces.current, spaces.since, spaces.in_user);
        let Some(space) = spaces.list.get_mut(current) else { return };
        if in_user {
            space.entries += 1;
        } else {
            space.instructions += now - since;
            space.traps[way as usize] += 1;
        }
    }

    /// The top page table. Other bits of CR3 name no address space: PCIDs are given to one after the other.
    pub(crate) fn address_space(&self) -> u64 {
        if !self.paging() {
            0
        } else if self.efer & efer::LMA == 0 && self.cr4 & cr4::PAE != 0 {
            self.cr3 & 0xffff_ffe0
        } else {
            self.cr3 & 0x000f_ffff_ffff_f000
        }
    }

    /// What the address spaces have cost that were used at CPL 3, the most expensive first.
    pub fn address_spaces(&self) -> Vec<AddressSpace> {
        let mut list = self.spaces.list.clone();
        if self.spaces.in_user
            && let Some(space) = list.get_mut(self.spaces.current)
        {
            space.instructions += self.instructions() - self.spaces.since;
        }
        list.retain(|space| space.entries > 0);
        list.sort_by_key(|space| std::cmp::Reverse(space.instructions));
        list
    }
}
