;; A command handler by hand: the first byte of a command's body says how it behaves. It speaks the
;; canonical ABI directly, so it can answer what no SDK would write.
(module
  (import "foldhost:plugin/log@0.1.0" "log" (func $log (param i32 i32 i32)))
  (memory (export "memory") 20)
  (global $free (mut i32) (i32.const 65536))
  (data (i32.const 16) "boom: the handler gives up")
  (data (i32.const 64) "id")
  (data (i32.const 66) "by")
  (data (i32.const 68) "key")
  (data (i32.const 72) "text/plain")
  (data (i32.const 96) "sold-out")
  (data (i32.const 112) "nothing is left")
  (data (i32.const 128) "{\"left\":0}")
  (data (i32.const 144) "amount")
  (data (i32.const 152) "not a number")
  (data (i32.const 168) "foldhost-cause")
  (data (i32.const 184) "Sold Out")
  (data (i32.const 200) "\ff")

  (func $alloc (param $bytes i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.set $free (i32.add (local.get $at) (local.get $bytes)))
    (memory.fill (local.get $at) (i32.const 0) (local.get $bytes))
    (local.get $at))

  ;; Never frees: the tests make few calls.
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (call $alloc (local.get 3)))

  (func $panic
    (call $log (i32.const 3) (i32.const 16) (i32.const 26))
    unreachable)

  ;; A list or a text: where it is, and how long.
  (func $put (param $at i32) (param $from i32) (param $length i32)
    (i32.store (local.get $at) (local.get $from))
    (i32.store offset=4 (local.get $at) (local.get $length)))

  ;; The refusal `refused`, with a code and details.
  (func $refused (param $code i32) (param $details i32) (param $details_length i32) (result i32)
    (local $result i32)
    (local.set $result (call $alloc (i32.const 32)))
    (i32.store8 (local.get $result) (i32.const 1))
    (i32.store8 offset=4 (local.get $result) (i32.const 2))
    (call $put (i32.add (local.get $result) (i32.const 8)) (local.get $code) (i32.const 8))
    (call $put (i32.add (local.get $result) (i32.const 16)) (i32.const 112) (i32.const 15))
    (call $put (i32.add (local.get $result) (i32.const 24)) (local.get $details) (local.get $details_length))
    (local.get $result))

  ;; A decision of `$count` tombstones without headers, and no reply.
  (func $events (param $count i32) (result i32)
    (local $result i32)
    (local.set $result (call $alloc (i32.const 32)))
    (call $put (i32.add (local.get $result) (i32.const 4))
      (call $alloc (i32.mul (local.get $count) (i32.const 20))) (local.get $count))
    (local.get $result))

  ;; Gives the event at `$event` room for `$count` headers, all of which are null.
  (func $headers (param $event i32) (param $count i32) (result i32)
    (local $list i32)
    (local.set $list (call $alloc (i32.mul (local.get $count) (i32.const 20))))
    (call $put (i32.add (local.get $event) (i32.const 12)) (local.get $list) (local.get $count))
    (local.get $list))

  ;; One event with one header of that name.
  (func $header (param $name i32) (param $length i32) (result i32)
    (local $result i32)
    (local.set $result (call $events (i32.const 1)))
    (call $put (call $headers (i32.load offset=4 (local.get $result)) (i32.const 1))
      (local.get $name) (local.get $length))
    (local.get $result))

  ;; `option<list<u8>>` at `$at`: so many bytes from there.
  (func $some (param $at i32) (param $from i32) (param $length i32)
    (i32.store8 (local.get $at) (i32.const 1))
    (call $put (i32.add (local.get $at) (i32.const 4)) (local.get $from) (local.get $length)))

  (func $reply (param $result i32) (param $from i32) (param $length i32)
    (i32.store8 offset=12 (local.get $result) (i32.const 1))
    (call $put (i32.add (local.get $result) (i32.const 16)) (i32.const 72) (i32.const 10))
    (call $put (i32.add (local.get $result) (i32.const 24)) (local.get $from) (local.get $length)))

  ;; The parameters lie at: key 0, state 8, name 24, id 32, content type 40, body 48, now 56, version 64,
  ;; changed-at 80, principal 96, headers 108. An event has a value at 0 and headers at 12; a header a name
  ;; at 0 and a value at 8; each takes 20 bytes. The result has events at 4 and a reply at 12, or a refusal
  ;; at 4.
  (func (export "foldhost:plugin/decide@0.1.0#decide") (param $in i32) (result i32)
    (local $what i32) (local $result i32) (local $event i32) (local $header i32)
    (local.set $what (i32.load8_u (i32.load offset=48 (local.get $in))))
    ;; p: panics, as the SDK does
    (if (i32.eq (local.get $what) (i32.const 0x70)) (then (call $panic)))
    ;; l: loops for ever
    (if (i32.eq (local.get $what) (i32.const 0x6c)) (then (loop $l (br $l))))
    ;; u: knows no such command
    (if (i32.eq (local.get $what) (i32.const 0x75)) (then
      (local.set $result (call $alloc (i32.const 32)))
      (i32.store8 (local.get $result) (i32.const 1))
      (return (local.get $result))))
    ;; b: finds a fault in the body
    (if (i32.eq (local.get $what) (i32.const 0x62)) (then
      (local.set $result (call $alloc (i32.const 32)))
      (i32.store8 (local.get $result) (i32.const 1))
      (i32.store8 offset=4 (local.get $result) (i32.const 1))
      (call $put (i32.add (local.get $result) (i32.const 8)) (i32.const 144) (i32.const 6))
      (call $put (i32.add (local.get $result) (i32.const 16)) (i32.const 152) (i32.const 12))
      (return (local.get $result))))
    ;; r: refuses; d: with details that are no JSON; D: with too many; C: without a proper code
    (if (i32.eq (local.get $what) (i32.const 0x72)) (then
      (return (call $refused (i32.const 96) (i32.const 128) (i32.const 10)))))
    (if (i32.eq (local.get $what) (i32.const 0x64)) (then
      (return (call $refused (i32.const 96) (i32.const 128) (i32.const 9)))))
    (if (i32.eq (local.get $what) (i32.const 0x44)) (then
      (return (call $refused (i32.const 96) (i32.const 1024) (i32.const 20000)))))
    (if (i32.eq (local.get $what) (i32.const 0x43)) (then
      (return (call $refused (i32.const 184) (i32.const 0) (i32.const 0)))))
    ;; n: nothing changes; m: more events than there may be; B: an event of more bytes
    (if (i32.eq (local.get $what) (i32.const 0x6e)) (then
      (return (call $events (i32.const 0)))))
    (if (i32.eq (local.get $what) (i32.const 0x6d)) (then
      (return (call $events (i32.const 1001)))))
    (if (i32.eq (local.get $what) (i32.const 0x42)) (then
      (local.set $result (call $events (i32.const 1)))
      (call $some (i32.load offset=4 (local.get $result)) (i32.const 0) (i32.const 0x100000))
      (return (local.get $result))))
    ;; H: a header of the host's; x: one whose name is no text
    (if (i32.eq (local.get $what) (i32.const 0x48)) (then
      (return (call $header (i32.const 168) (i32.const 14)))))
    (if (i32.eq (local.get $what) (i32.const 0x78)) (then
      (return (call $header (i32.const 200) (i32.const 1)))))
    ;; A: a reply of more bytes than it may have
    (if (i32.eq (local.get $what) (i32.const 0x41)) (then
      (local.set $result (call $events (i32.const 0)))
      (call $reply (local.get $result) (i32.const 0) (i32.const 2000))
      (return (local.get $result))))
    ;; anything else: an event with the body and headers that say what came, a tombstone with one that is
    ;; named as the command, and the state, if there is one, as the reply
    (local.set $result (call $events (i32.const 2)))
    (local.set $event (i32.load offset=4 (local.get $result)))
    (call $some (local.get $event) (i32.load offset=48 (local.get $in)) (i32.load offset=52 (local.get $in)))
    (local.set $header (call $headers (local.get $event) (i32.const 3)))
    (call $put (local.get $header) (i32.const 64) (i32.const 2))
    (call $some (i32.add (local.get $header) (i32.const 8))
      (i32.load offset=32 (local.get $in)) (i32.load offset=36 (local.get $in)))
    (call $put (i32.add (local.get $header) (i32.const 20)) (i32.const 66) (i32.const 2))
    (memory.copy (i32.add (local.get $header) (i32.const 28))
      (i32.add (local.get $in) (i32.const 96)) (i32.const 12))
    (call $put (i32.add (local.get $header) (i32.const 40)) (i32.const 68) (i32.const 3))
    (call $some (i32.add (local.get $header) (i32.const 48))
      (i32.load (local.get $in)) (i32.load offset=4 (local.get $in)))
    (call $put (call $headers (i32.add (local.get $event) (i32.const 20)) (i32.const 1))
      (i32.load offset=24 (local.get $in)) (i32.load offset=28 (local.get $in)))
    (if (i32.load8_u offset=8 (local.get $in)) (then
      (call $reply (local.get $result) (i32.load offset=12 (local.get $in)) (i32.load offset=16 (local.get $in)))))
    (local.get $result))

  ;; The state of the first key is what its events say, one after the other, behind a `+` where they have
  ;; offsets and a `-` where they have none.
  (func (export "foldhost:plugin/fold@0.1.0#fold") (param $in i32) (result i32)
    (local $result i32) (local $state i32) (local $bytes i32)
    (local.set $bytes (i32.load offset=56 (local.get $in)))
    (local.set $state (call $alloc (i32.add (local.get $bytes) (i32.const 1))))
    (i32.store8 (local.get $state)
      (select (i32.const 0x2b) (i32.const 0x2d) (i32.load8_u offset=92 (local.get $in))))
    (memory.copy (i32.add (local.get $state) (i32.const 1))
      (i32.load offset=52 (local.get $in)) (local.get $bytes))
    (local.set $bytes (i32.add (local.get $bytes) (i32.const 1)))
    (local.set $result (call $alloc (i32.const 32)))
    (call $put (local.get $result) (local.get $state) (local.get $bytes))
    (call $put (i32.add (local.get $result) (i32.const 8)) (call $alloc (i32.const 4)) (i32.const 1))
    (i32.store (i32.load offset=8 (local.get $result)) (local.get $bytes))
    (call $put (i32.add (local.get $result) (i32.const 16)) (call $alloc (i32.const 1)) (i32.const 1))
    (i32.store8 (i32.load offset=16 (local.get $result)) (i32.const 1))
    (local.get $result))

  ;; p panics, m gives too many events, H one with a header of the host's; anything else is the event, with the key
  ;; in a header. The list lies where a decision has it.
  (func (export "foldhost:plugin/emit-state@0.1.0#emit-state")
    (param $key i32) (param $key_length i32) (param $state i32) (param $length i32) (result i32)
    (local $what i32) (local $result i32) (local $header i32)
    (local.set $what (i32.load8_u (local.get $state)))
    (if (i32.eq (local.get $what) (i32.const 0x70)) (then (call $panic)))
    (if (i32.eq (local.get $what) (i32.const 0x6d)) (then
      (return (i32.add (call $events (i32.const 1001)) (i32.const 4)))))
    (if (i32.eq (local.get $what) (i32.const 0x48)) (then
      (return (i32.add (call $header (i32.const 168) (i32.const 14)) (i32.const 4)))))
    (local.set $result (call $events (i32.const 1)))
    (call $some (i32.load offset=4 (local.get $result)) (local.get $state) (local.get $length))
    (local.set $header (call $headers (i32.load offset=4 (local.get $result)) (i32.const 1)))
    (call $put (local.get $header) (i32.const 68) (i32.const 3))
    (call $some (i32.add (local.get $header) (i32.const 8)) (local.get $key) (local.get $key_length))
    (i32.add (local.get $result) (i32.const 4)))

  (func (export "foldhost:plugin/describe@0.1.0#describe") (result i32)
    (call $alloc (i32.const 24))))
