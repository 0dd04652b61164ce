//! What only rarely-run blocks want is computed there: the words of flags that nobody looks at unless the region is left, results
//! of comparisons, addresses that only an access whose page is not near needs. What is emitted stands where its instruction does,
//! and Cranelift leaves it there, as no pass that moves anything may run (see `emitter.rs` on floating point).
//!
//! Only integers are moved, by operations that neither fault nor touch memory.

use cranelift_codegen::{
    entity::SecondaryMap,
    ir::{Block, Function, Inst, Opcode, Value, function::FunctionStencil},
};
use smallvec::SmallVec;

/// What is wanted in more blocks than these stays where it is: it would be computed once more in each.
const MOST: usize = 8;

/// Who uses a value.
#[derive(Clone, Debug, Default)]
struct Uses {
    /// How often it is an operand elsewhere than in rarely-run blocks.
    often: u32,
    /// Rarely-run blocks in which it is an operand.
    rarely: SmallVec<[Block; 2]>,
}

impl Uses {
    fn add_rare(&mut self, block: Block) {
        if !self.rarely.contains(&block) {
            self.rarely.push(block);
        }
    }
}

/// Whether an operation may stand anywhere behind its operands.
fn is_free(opcode: Opcode) -> bool {
    use Opcode::{
        Band, Bnot, Bor, Bxor, Iadd, Icmp, Iconst, Imul, Ineg, Ireduce, Ishl, Isub, Select, Sextend, Sshr,
        Uextend, Ushr,
    };
    matches!(
        opcode,
        Iadd | Isub
            | Imul
            | Ineg
            | Band
            | Bor
            | Bxor
            | Bnot
            | Ishl
            | Ushr
            | Sshr
            | Icmp
            | Iconst
            | Uextend
            | Sextend
            | Ireduce
            | Select
    )
}

/// Moves what only rarely-run blocks use into these.
pub(super) fn sink(func: &mut Function) {
    func.dfg.resolve_all_aliases();
    let mut uses: SecondaryMap<Value, Uses> = SecondaryMap::new();
    let mut movable: Vec<Inst> = Vec::new();
    for block in func.layout.blocks() {
        let rare = func.layout.is_cold(block);
        for inst in func.layout.block_insts(block) {
            for v in func.dfg.inst_values(inst) {
                if rare { uses[v].add_rare(block) } else { uses[v].often += 1 }
            }
            if !rare && is_free(func.dfg.insts[inst].opcode()) {
                movable.push(inst);
            }
        }
    }
    // Operands are made before what is made of them: so users come first.
    movable.sort_unstable_by(|a, b| b.cmp(a));
    for inst in movable {
        let v = func.dfg.first_result(inst);
        let Uses { often: 0, rarely } = &uses[v] else { continue };
        if rarely.is_empty() || rarely.len() > MOST || !func.dfg.value_type(v).is_int() {
            continue;
        }
        let blocks = std::mem::take(&mut uses[v]).rarely;
        let operands: SmallVec<[Value; 4]> = func.dfg.inst_values(inst).collect();
        for &block in &blocks {
            move_into(func, inst, block);
            operands.iter().for_each(|&operand| uses[operand].add_rare(block));
        }
        func.layout.remove_inst(inst);
        operands.iter().for_each(|&operand| uses[operand].often -= 1);
    }
}

/// Computes the same at the beginning of a block, for all that use it there.
fn move_into(func: &mut Function, inst: Inst, block: Block) {
    let FunctionStencil { dfg, layout, .. } = &mut func.stencil;
    let Some(first) = layout.first_inst(block) else { return };
    let (copy, old) = (dfg.clone_inst(inst), dfg.first_result(inst));
    layout.insert_inst(copy, first);
    let new = dfg.first_result(copy);
    for user in layout.block_insts(block) {
        dfg.map_inst_values(user, |v| if v == old { new } else { v });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cranelift_codegen::ir::{AbiParam, InstBuilder, Signature, UserFuncName, types::I64};
    use cranelift_codegen::isa::CallConv;
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

    fn operations(func: &Function, block: Block) -> Vec<Opcode> {
        func.layout.block_insts(block).map(|inst| func.dfg.insts[inst].opcode()).collect()
    }

    #[test]
    fn what_rare_blocks_alone_want_is_computed_there() {
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params = vec![AbiParam::new(I64); 2];
        signature.returns = vec![AbiParam::new(I64)];
        let mut func = Function::with_name_signature(UserFuncName::default(), signature);
        let mut context = FunctionBuilderContext::new();
        let mut b = FunctionBuilder::new(&mut func, &mut context);
        let [entry, one, other, often] = std::array::from_fn(|_| b.create_block());
        b.set_cold_block(one);
        b.set_cold_block(other);
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        let (x, y) = (b.block_params(entry)[0], b.block_params(entry)[1]);
        // A chain that both rare blocks want, one that one of them wants, and what is wanted often, too.
        let sum = b.ins().iadd(x, y);
        let chain = b.ins().bxor(sum, y);
        let product = b.ins().imul(x, y);
        let difference = b.ins().isub(x, y);
        b.ins().brif(x, one, &[], often, &[]);
        b.switch_to_block(one);
        let both = b.ins().band(chain, product);
        let all = b.ins().bor(both, difference);
        b.ins().return_(&[all]);
        b.switch_to_block(often);
        b.ins().brif(difference, other, &[], often, &[]);
        b.switch_to_block(other);
        b.ins().return_(&[chain]);
        b.seal_all_blocks();
        sink(&mut func);
        use Opcode::{Band, Bor, Brif, Bxor, Iadd, Imul, Isub, Return};
        assert_eq!(operations(&func, entry), [Isub, Brif]);
        assert_eq!(operations(&func, one), [Iadd, Bxor, Imul, Band, Bor, Return]);
        assert_eq!(operations(&func, other), [Iadd, Bxor, Return]);
        let returned = func.layout.last_inst(other).map(|inst| func.dfg.inst_args(inst).to_vec());
        let made = func.layout.block_insts(other).nth(1).map(|inst| vec![func.dfg.first_result(inst)]);
        assert_eq!(returned, made, "of its own copy");
    }
}
