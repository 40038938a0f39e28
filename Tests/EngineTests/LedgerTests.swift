@testable import GranuleEngine
import Testing

@Suite struct LedgerTests {
  @Test("a principal may hold as much as it leaves free, over all its accounts")
  func room() {
    let ledger = Ledger()
    let first = ledger.open(Principal(id: 1))
    let again = ledger.open(Principal(id: 1))
    let other = ledger.open(Principal(id: 2))
    #expect(first.admit(40, limit: 100) == nil)
    // 40 held, 60 free: 20 more make 60.
    #expect(again.admit(21, limit: 100).map { [$0.all, $0.own] } == [40, 40])
    #expect(again.admit(10, limit: 100) == nil)
    #expect(other.admit(51, limit: 100).map { [$0.all, $0.own] } == [50, 0])
    #expect(other.admit(50, limit: 100) == nil)
    #expect(ledger.bytes.admitted == 100)
    first.release(40)
    again.release(10)
    other.release(50)
    #expect(ledger.bytes == Ledger.Bytes())
    // Alone, a call may take all there is, and more.
    #expect(first.admit(150, limit: 100) == nil)
  }

  @Test("bytes to write and to receive are replaced, and go with their account")
  func replaced() {
    let ledger = Ledger()
    let account = ledger.open(Principal(id: 1))
    let other = ledger.open(Principal(id: 1))
    account.setWrite(10)
    account.setWrite(4)
    account.setReceive(7)
    other.setReceive(1)
    #expect(ledger.bytes.write == 4 && ledger.bytes.receive == 8)
    #expect(ledger.accounts == 2)
    account.close()
    account.close()
    account.setWrite(100)
    #expect(ledger.bytes.write == 0 && ledger.bytes.receive == 1)
    #expect(ledger.accounts == 1)
  }

  @Test("what a ticket reserved comes back once, when it is closed or let go of")
  func tickets() {
    let ledger = Ledger()
    let account = ledger.open(Principal(id: 1))
    #expect(account.admit(30, limit: 100) == nil)
    do {
      let ticket = Ticket(
        .encode, serial: 1, isCancellable: true, account: account, bytes: 30)
      account.close()
      #expect(ledger.bytes.admitted == 30, "a call outlives its connection's account")
      ticket.close()
      ticket.close()
      #expect(ledger.bytes.admitted == 0)
      #expect(ticket.settle())
      #expect(!ticket.settle())
    }
    #expect(ledger.bytes.admitted == 0)
  }
}
