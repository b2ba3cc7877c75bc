;; A guest by hand: the first byte of the first event's value says how it behaves. It speaks the
;; canonical ABI directly, so it can answer what no SDK would write.
(module
  (import "foldhost:plugin/log@0.1.0" "log" (func $log (param i32 i32 i32)))
  (memory (export "memory") 20)
  (global $free (mut i32) (i32.const 65536))
  (data (i32.const 16) "boom: the guest gives up")
  (data (i32.const 64) "bad-event")
  (data (i32.const 80) "it says so")
  (data (i32.const 96) "text/plain")
  (data (i32.const 112) "no-parameter")
  (data (i32.const 128) "no state of that schema is known")

  ;; Never frees: the tests make few calls.
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.set $free (i32.add (local.get $at) (local.get 3)))
    (local.get $at))

  (func $alloc (param $bytes i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.set $free (i32.add (local.get $at) (local.get $bytes)))
    (memory.fill (local.get $at) (i32.const 0) (local.get $bytes))
    (local.get $at))

  (func $panic
    (call $log (i32.const 3) (i32.const 16) (i32.const 24))
    unreachable)

  ;; The record `folded` for `$keys` keys, all with `$mark`.
  (func $folded (param $keys i32) (param $mark i32) (result i32)
    (local $result i32) (local $ends i32) (local $marks i32)
    (local.set $ends (call $alloc (i32.mul (local.get $keys) (i32.const 4))))
    (local.set $marks (call $alloc (local.get $keys)))
    (memory.fill (local.get $marks) (local.get $mark) (local.get $keys))
    (local.set $result (call $alloc (i32.const 32)))
    (i32.store offset=8 (local.get $result) (local.get $ends))
    (i32.store offset=12 (local.get $result) (local.get $keys))
    (i32.store offset=16 (local.get $result) (local.get $marks))
    (i32.store offset=20 (local.get $result) (local.get $keys))
    (local.get $result))

  ;; One state of `$bytes` bytes for the first key, no matter how many keys there are.
  (func $large (param $bytes i32) (result i32)
    (local $result i32)
    (local.set $result (call $folded (i32.const 1) (i32.const 1)))
    (i32.store (local.get $result) (i32.const 0))
    (i32.store offset=4 (local.get $result) (local.get $bytes))
    (i32.store (i32.load offset=8 (local.get $result)) (local.get $bytes))
    (local.get $result))

  (func $rejects (param $keys i32) (param $index i32) (result i32)
    (local $result i32) (local $rejection i32)
    (local.set $result (call $folded (local.get $keys) (i32.const 2)))
    (local.set $rejection (call $alloc (i32.const 20)))
    (i32.store (local.get $rejection) (local.get $index))
    (i32.store offset=4 (local.get $rejection) (i32.const 64))
    (i32.store offset=8 (local.get $rejection) (i32.const 9))
    (i32.store offset=12 (local.get $rejection) (i32.const 80))
    (i32.store offset=16 (local.get $rejection) (i32.const 10))
    (i32.store offset=24 (local.get $result) (local.get $rejection))
    (i32.store offset=28 (local.get $result) (i32.const 1))
    (local.get $result))

  (func (export "foldhost:plugin/fold@0.1.0#fold") (param $in i32) (result i32)
    (local $what i32) (local $keys i32) (local $result i32)
    (local.set $keys (i32.load offset=12 (local.get $in)))
    (local.set $what (i32.load8_u (i32.load offset=52 (local.get $in))))
    ;; p: panics, as the SDK does
    (if (i32.eq (local.get $what) (i32.const 0x70)) (then (call $panic)))
    ;; t: traps without a word
    (if (i32.eq (local.get $what) (i32.const 0x74)) (then unreachable))
    ;; l: loops for ever
    (if (i32.eq (local.get $what) (i32.const 0x6c)) (then (loop $l (br $l))))
    ;; w: logs for ever, 64 KiB a line
    (if (i32.eq (local.get $what) (i32.const 0x77)) (then
      (loop $l (call $log (i32.const 0) (i32.const 0x100000) (i32.const 65536)) (br $l))))
    ;; m: wants 100 MB, and gives up when it does not get them
    (if (i32.eq (local.get $what) (i32.const 0x6d)) (then
      (if (i32.eq (memory.grow (i32.const 1600)) (i32.const -1)) (then unreachable))))
    ;; s: recurses for ever
    (if (i32.eq (local.get $what) (i32.const 0x73)) (then (call $deep (i32.const 0)) drop))
    ;; r: rejects the first event, R: one that does not exist
    (if (i32.eq (local.get $what) (i32.const 0x72)) (then
      (return (call $rejects (local.get $keys) (i32.const 0)))))
    (if (i32.eq (local.get $what) (i32.const 0x52)) (then
      (return (call $rejects (local.get $keys) (i32.const 77)))))
    ;; b: a large state, B: one that claims to be larger than memory
    (if (i32.eq (local.get $what) (i32.const 0x62)) (then
      (return (call $large (i32.const 1100000)))))
    (if (i32.eq (local.get $what) (i32.const 0x42)) (then
      (return (call $large (i32.const 0x7fffffff)))))
    ;; c: too few columns, k: an unknown mark
    (if (i32.eq (local.get $what) (i32.const 0x63)) (then
      (return (call $folded (i32.const 0) (i32.const 2)))))
    (if (i32.eq (local.get $what) (i32.const 0x6b)) (then
      (return (call $folded (local.get $keys) (i32.const 9)))))
    ;; n: states that are not-a-numbers of a division, so that their bits show
    (if (i32.eq (local.get $what) (i32.const 0x6e)) (then
      (local.set $result (call $large (i32.const 4)))
      (i32.store (local.get $result) (call $alloc (i32.const 4)))
      (f32.store (i32.load (local.get $result))
        (f32.add (f32.reinterpret_i32 (i32.const 0x7fa01234)) (f32.const 1)))
      (return (local.get $result))))
    ;; anything else: nothing changed
    (call $folded (local.get $keys) (i32.const 2)))

  (func $deep (param $n i32) (result i32)
    (i32.add (call $deep (i32.add (local.get $n) (i32.const 1))) (i32.const 1)))

  ;; Answers with the key.
  (func (export "foldhost:plugin/query@0.1.0#answer") (param $in i32) (result i32)
    (local $result i32)
    (local.set $result (call $alloc (i32.const 32)))
    (i32.store offset=4 (local.get $result) (i32.const 96))
    (i32.store offset=8 (local.get $result) (i32.const 10))
    (i32.store offset=12 (local.get $result) (i32.load (local.get $in)))
    (i32.store offset=16 (local.get $result) (i32.load offset=4 (local.get $in)))
    (local.get $result))

  ;; Migrates by the last byte of the schema's name. The parameters are name and length, then data,
  ;; ends of the keys, then data, ends, marks of the states; each a pointer and a count. The result is
  ;; 0 and a column, or 1 and a text.
  (func (export "foldhost:plugin/migrate@0.1.0#migrate")
    (param $name i32) (param $length i32)
    (param $key_data i32) (param $key_bytes i32) (param $key_ends i32) (param $keys i32)
    (param $data i32) (param $bytes i32) (param $ends i32) (param $ends_count i32)
    (param $marks i32) (param $marks_count i32) (result i32)
    (local $result i32) (local $what i32)
    (local.set $what (i32.load8_u (i32.sub (i32.add (local.get $name) (local.get $length)) (i32.const 1))))
    (local.set $result (call $alloc (i32.const 28)))
    ;; t: traps
    (if (i32.eq (local.get $what) (i32.const 0x74)) (then unreachable))
    ;; l: loops for ever
    (if (i32.eq (local.get $what) (i32.const 0x6c)) (then (loop $l (br $l))))
    ;; x: knows no such schema
    (if (i32.eq (local.get $what) (i32.const 0x78)) (then
      (i32.store (local.get $result) (i32.const 1))
      (i32.store offset=4 (local.get $result) (i32.const 128))
      (i32.store offset=8 (local.get $result) (i32.const 32))
      (return (local.get $result))))
    ;; the states as they were
    (i32.store offset=4 (local.get $result) (local.get $data))
    (i32.store offset=8 (local.get $result) (local.get $bytes))
    (i32.store offset=12 (local.get $result) (local.get $ends))
    (i32.store offset=16 (local.get $result) (local.get $ends_count))
    (i32.store offset=20 (local.get $result) (local.get $marks))
    (i32.store offset=24 (local.get $result) (local.get $marks_count))
    ;; f: one too few of them
    (if (i32.eq (local.get $what) (i32.const 0x66)) (then
      (i32.store offset=16 (local.get $result) (i32.sub (local.get $ends_count) (i32.const 1)))
      (i32.store offset=24 (local.get $result) (i32.sub (local.get $marks_count) (i32.const 1)))))
    ;; u: all marked unchanged, and without bytes
    (if (i32.eq (local.get $what) (i32.const 0x75)) (then
      (i32.store offset=8 (local.get $result) (i32.const 0))
      (memory.fill (local.get $ends) (i32.const 0) (i32.mul (local.get $ends_count) (i32.const 4)))
      (memory.fill (local.get $marks) (i32.const 2) (local.get $marks_count))))
    ;; b: the first one larger than a state may be
    (if (i32.eq (local.get $what) (i32.const 0x62)) (then
      (i32.store offset=4 (local.get $result) (i32.const 0))
      (i32.store offset=8 (local.get $result) (i32.const 1100000))
      (i32.store (local.get $ends) (i32.const 1100000))
      (i32.store offset=4 (local.get $ends) (i32.const 1100000))))
    (local.get $result))

  (func (export "foldhost:plugin/describe@0.1.0#describe") (result i32)
    (call $alloc (i32.const 24)))

  ;; Takes no parameter at all: result<_, string>.
  (func (export "foldhost:plugin/configure@0.1.0#configure") (param $list i32) (param $count i32) (result i32)
    (local $result i32)
    (local.set $result (call $alloc (i32.const 12)))
    (if (local.get $count) (then
      (i32.store8 (local.get $result) (i32.const 1))
      (i32.store offset=4 (local.get $result) (i32.const 112))
      (i32.store offset=8 (local.get $result) (i32.const 12))))
    (local.get $result)))
