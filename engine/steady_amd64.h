// flow.Record.TrackSteady, for the loops of change_amd64.s and regular_amd64.s, which include it in their midst: DX is the record, R13 the packet,
// R8 the scale of the sender's windows, R11 of the receiver's. It ends at toServer or toClient, at NOTSTEADY where the state is another,
// or at done, with nothing changed.
tcp: // TrackSteady: CX is the sender, R15 the receiver
	MOVL    (DX), R15
	ANDL    $const_steadyBits, R15
	CMPL    R15, $const_steady
	JNE     NOTSTEADY
	MOVBLZX const_packetFlags(R13), R15
	ANDL    $const_steadyFlags, R15
	CMPL    R15, $const_steadyFlag
	JNE     done
	MOVL    CX, R15
	XORL    $1, R15
	MOVWLZX MAXWIN(CX), AX
	SHLXL   R8, AX, R8                      // the sender's window
	MOVWLZX MAXWIN(R15), AX
	SHLXL   R11, AX, R11                    // the receiver's
	MOVL    END(R15), AX
	SUBL    const_packetAck(R13), AX
	ADDL    $const_slack, R8
	CMPL    AX, R8
	JHI     done
	MOVL    ACK(R15), AX
	MOVL    const_packetSeq(R13), R8
	LEAL    2(AX)(R11*1), AX
	SUBL    R8, AX
	ADDL    const_packetLen(R13), R8        // the segment's end
	MOVL    R8, R15
	SUBL    END(CX), R15
	LEAL    const_slack(R15)(R11*1), R11
	ORL     AX, R11
	JMI     done
	TESTL   R15, R15
	JLE     ack
	MOVL    R8, END(CX)

ack:
	MOVL    const_packetAck(R13), R8
	MOVL    R8, R11
	SUBL    ACK(CX), R11
	TESTL   R11, R11                        // the sign, without the overflow
	JLE     window
	MOVL    R8, ACK(CX)

window:
	MOVWLZX const_packetWindow(R13), R8
	CMPW    R8, MAXWIN(CX)
	JLS     steady
	MOVW    R8, MAXWIN(CX)

steady:
	TESTL CX, CX
	JNE   toClient
	JMP   toServer
