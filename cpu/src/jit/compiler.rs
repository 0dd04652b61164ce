//! Regions through Cranelift.

use super::{
    cache::{Hole, Name},
    emitter::{Emitter, Needed, Untranslatable},
    host::{self, FRAME},
    lookup,
    region::Region,
    runtime,
    service::{Compiled, Parts},
    sink::sink,
};
use cranelift_codegen::{
    CompiledCode, Context, FinalizedRelocTarget,
    control::ControlPlane,
    ir::{AbiParam, ExternalName, Function, InstBuilder, Signature, UserFuncName, types::*},
    isa::{CallConv, OwnedTargetIsa},
    settings::{self, Configurable},
};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

/// What compiles.
pub(super) struct Compiler {
    isa: OwnedTargetIsa,
    context: Context,
    builder: FunctionBuilderContext,
}

impl std::fmt::Debug for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Compiler for {}", self.isa.triple())
    }
}

impl Compiler {
    /// A compiler for this host; None where Cranelift does not know it. `checked`: what it is given and makes is verified,
    /// which takes as long again.
    pub(super) fn new(checked: bool) -> Option<Self> {
        let mut flags = settings::builder();
        let verify = if checked { "true" } else { "false" };
        for (name, value) in [
            ("opt_level", "none"),
            ("regalloc_algorithm", "backtracking"),
            ("enable_verifier", verify),
            ("enable_alias_analysis", "false"),
            ("unwind_info", "false"),
            ("enable_probestack", "false"),
            ("preserve_frame_pointers", "true"),
            ("machine_code_cfg_info", "false"),
        ] {
            flags.set(name, value).ok()?;
        }
        let isa = cranelift_native::builder().ok()?.finish(settings::Flags::new(flags)).ok()?;
        Some(Compiler { isa, context: Context::new(), builder: FunctionBuilderContext::new() })
    }

    /// Translates a region; None where something in it cannot be.
    pub(super) fn compile(&mut self, region: &Region) -> Option<Compiled> {
        self.context.clear();
        let mut signature = Signature::new(CallConv::Winch);
        signature.params.push(AbiParam::new(I64));
        self.context.func = Function::with_name_signature(UserFuncName::default(), signature);
        let mut b = FunctionBuilder::new(&mut self.context.func, &mut self.builder);
        let needed = match Emitter::run(&mut b, region) {
            Ok(needed) => needed,
            Err(Untranslatable) => {
                // The builder is left in the middle of a function.
                self.builder = FunctionBuilderContext::new();
                return None;
            }
        };
        b.finalize(self.isa.frontend_config());
        sink(&mut self.context.func);
        self.finish(needed)
    }

    fn finish(&mut self, needed: Needed) -> Option<Compiled> {
        if let Err(error) = self.context.compile(&*self.isa, &mut ControlPlane::default()) {
            log::warn!("a region is left to the interpreter: {:?}", error.inner);
            return None;
        }
        let compiled = self.context.compiled_code()?;
        let mut code = compiled.buffer.data().to_vec();
        let (entry, frame) = host::prologue(&code)?;
        if frame > FRAME {
            return None;
        }
        let mut holes = Vec::new();
        for reloc in compiled.buffer.relocs() {
            let FinalizedRelocTarget::ExternalName(ExternalName::User(user)) = &reloc.target else {
                return None;
            };
            let user = self.context.func.params.user_named_funcs().get(*user)?;
            let name = Name::from_number(user.namespace, user.index)?;
            let (offset, fix) = (reloc.offset as usize, host::fix(reloc.kind)?);
            if matches!(name, Name::Leave | Name::Lookup | Name::Exit(_))
                && !host::make_jump(&mut code, offset)
            {
                return None;
            }
            if let Name::Unit(what) = name {
                if !host::make_x87(&mut code, offset, what) {
                    return None;
                }
                continue;
            }
            holes.push(Hole { offset, fix, name, addend: reloc.addend });
        }
        for jump in indirect_jumps(compiled) {
            if !host::make_indirect_jump(&mut code, jump) {
                return None;
            }
        }
        let (cold_from, across) = (code.len(), Vec::new());
        Some(Compiled { code, cold_from, across, entry, holes, exits: needed.exits, cells: needed.cells })
    }

    /// The function between translated code and [`runtime::fill`]: it saves what the host's convention does not.
    fn slow(&mut self) -> Option<Vec<u8>> {
        self.context.clear();
        let parameters = vec![AbiParam::new(I64); 3];
        let mut signature = Signature::new(CallConv::PreserveAll);
        signature.params.clone_from(&parameters);
        self.context.func = Function::with_name_signature(UserFuncName::default(), signature);
        let mut b = FunctionBuilder::new(&mut self.context.func, &mut self.builder);
        let mut rust = Signature::new(CallConv::SystemV);
        rust.params = parameters;
        let rust = b.import_signature(rust);
        let block = b.create_block();
        b.append_block_params_for_function_params(block);
        b.switch_to_block(block);
        b.seal_block(block);
        let arguments = b.block_params(block).to_vec();
        let fill = b.ins().iconst(I64, runtime::fill as *const () as i64);
        b.ins().call_indirect(rust, fill, &arguments);
        b.ins().return_(&[]);
        b.finalize(self.isa.frontend_config());
        let compiled = self.context.compile(&*self.isa, &mut ControlPlane::default()).ok()?;
        compiled.buffer.relocs().is_empty().then(|| compiled.buffer.data().to_vec())
    }

    /// The function that goes to a linear address by way of the jump cache.
    fn lookup(&mut self) -> Option<Compiled> {
        self.context.clear();
        let mut signature = Signature::new(CallConv::Winch);
        signature.params = vec![AbiParam::new(I64); 2];
        self.context.func = Function::with_name_signature(UserFuncName::default(), signature);
        let mut b = FunctionBuilder::new(&mut self.context.func, &mut self.builder);
        lookup::emit(&mut b);
        b.finalize(self.isa.frontend_config());
        self.finish(Needed::default())
    }

    /// What every cache has.
    pub(super) fn parts(&mut self) -> Option<Parts> {
        Some(Parts { slow: self.slow()?, lookup: self.lookup()? })
    }
}

/// Return addresses of the calls through registers that are exits: those behind which a trap stands, and that are not calls
/// by name.
fn indirect_jumps(compiled: &CompiledCode) -> Vec<usize> {
    let calls: Vec<usize> = compiled.buffer.call_sites().map(|site| site.ret_addr as usize).collect();
    let by_name: Vec<usize> =
        compiled.buffer.relocs().iter().map(|reloc| reloc.offset as usize + 4).collect();
    let traps: Vec<usize> = compiled.buffer.traps().iter().map(|trap| trap.offset as usize).collect();
    calls.into_iter().filter(|call| traps.contains(call) && !by_name.contains(call)).collect()
}
