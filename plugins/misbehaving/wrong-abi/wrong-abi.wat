;; A view for another version of the ABI, 0.9.0, as an SDK of another host would make it. The host
;; refuses it by the version, before it looks at the functions.
(component
  (core module $plugin
    (func (export "fold"))
    (func (export "describe")))
  (core instance $core (instantiate $plugin))
  (func $fold (canon lift (core func $core "fold")))
  (func $describe (canon lift (core func $core "describe")))
  (instance $fold-interface (export "fold" (func $fold)))
  (instance $describe-interface (export "describe" (func $describe)))
  (export "foldhost:plugin/fold@0.9.0" (instance $fold-interface))
  (export "foldhost:plugin/describe@0.9.0" (instance $describe-interface)))
