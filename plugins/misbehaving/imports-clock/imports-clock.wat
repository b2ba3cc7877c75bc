;; A view that asks what time it is: it imports a clock of WASI. `foldhost plugin build` makes no such
;; component, so this one is written by hand. The host refuses it by the name of the import, before it
;; looks at the functions.
(component
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (export "now" (func (result u64)))))
  (core func $now (canon lower (func $clock "now")))
  (core module $plugin
    (import "clock" "now" (func $now (result i64)))
    (func (export "fold") (result i64) (call $now))
    (func (export "describe")))
  (core instance $core (instantiate $plugin
    (with "clock" (instance (export "now" (func $now))))))
  (func $fold (result u64) (canon lift (core func $core "fold")))
  (func $describe (canon lift (core func $core "describe")))
  (instance $fold-interface (export "fold" (func $fold)))
  (instance $describe-interface (export "describe" (func $describe)))
  (export "foldhost:plugin/fold@0.1.0" (instance $fold-interface))
  (export "foldhost:plugin/describe@0.1.0" (instance $describe-interface)))
