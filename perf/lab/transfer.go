package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// A transfer moves pseudo-random bytes both ways at once over one TCP connection, and both ends know what to expect:
//
//	client ─▶ server   n (8 bytes) seed (8 bytes)   n bytes of stream(seed, 0)   half-close
//	client ◀─ server   n bytes of stream(seed, 1)   SHA-256 of what the server received   half-close
//
// The client compares every byte, so an error tells where the stream went wrong, and the digest of the server.

// TransferResult tells what a transfer moved.
type TransferResult struct {
	Sent, Received       int64 // payload bytes
	SentSum, ReceivedSum [sha256.Size]byte
	Elapsed              time.Duration
}

const transferChunk = 128 << 10

// Transfer sends n bytes to a TransferServer over conn while it receives n bytes from it, and verifies both
// directions. It half-closes conn and leaves the rest to the caller. When ctx ends, so does the transfer.
func Transfer(ctx context.Context, conn net.Conn, n int64, seed uint64) (TransferResult, error) {
	start := time.Now()
	defer cutOnDone(ctx, conn)()
	r := TransferResult{}
	var sendErr error
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		var header [16]byte
		binary.BigEndian.PutUint64(header[:], uint64(n))
		binary.BigEndian.PutUint64(header[8:], seed)
		if _, sendErr = conn.Write(header[:]); sendErr != nil {
			return
		}
		r.SentSum, r.Sent, sendErr = sendStream(conn, n, stream(seed, 0))
		sendErr = errors.Join(sendErr, closeWrite(conn))
	}()

	sum := sha256.New()
	var recvErr error
	r.Received, recvErr = compareStream(conn, n, stream(seed, 1), sum)
	sum.Sum(r.ReceivedSum[:0])
	if recvErr != nil {
		conn.SetWriteDeadline(time.Unix(1, 0)) // else the sender could wait for ever for an end that gave up
	}
	<-sent
	if recvErr == nil && sendErr == nil {
		recvErr = checkTrailer(conn, r.SentSum)
	}
	r.Elapsed = time.Since(start)
	switch {
	case ctx.Err() != nil:
		return r, fmt.Errorf("transfer: sent %d, received %d of %d bytes: %w", r.Sent, r.Received, n, ctx.Err())
	case recvErr != nil:
		return r, fmt.Errorf("transfer: receive: %w", recvErr)
	case sendErr != nil:
		return r, fmt.Errorf("transfer: sent %d of %d bytes: %w", r.Sent, n, sendErr)
	}
	return r, nil
}

// checkTrailer reads the digest of the server and the end of the stream.
func checkTrailer(conn net.Conn, want [sha256.Size]byte) error {
	var got [sha256.Size]byte
	if _, err := io.ReadFull(conn, got[:]); err != nil {
		return fmt.Errorf("digest of the server: %w", err)
	}
	if got != want {
		return fmt.Errorf("the server received SHA-256 %x, sent was %x", got, want)
	}
	if n, err := conn.Read(got[:1]); n != 0 || err != io.EOF {
		return fmt.Errorf("after the digest: %d bytes and %v, want the end", n, err)
	}
	return nil
}

func serveTransfer(ctx context.Context, conn net.Conn) error {
	defer cutOnDone(ctx, conn)()
	var header [16]byte
	if _, err := io.ReadFull(conn, header[:]); err != nil {
		return err
	}
	n, seed := int64(binary.BigEndian.Uint64(header[:])), binary.BigEndian.Uint64(header[8:])
	sent := make(chan error, 1)
	go func() {
		_, _, err := sendStream(conn, n, stream(seed, 1))
		sent <- err
	}()
	sum := sha256.New()
	_, recvErr := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{conn}, make([]byte, transferChunk))
	if recvErr != nil {
		conn.SetWriteDeadline(time.Unix(1, 0))
	}
	if err := errors.Join(<-sent, recvErr); err != nil {
		return err
	}
	if _, err := conn.Write(sum.Sum(nil)); err != nil {
		return err
	}
	return closeWrite(conn)
}

// stream is the pseudo-random stream of one direction of a transfer.
func stream(seed uint64, direction byte) io.Reader {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	key[8] = direction
	return rand.NewChaCha8(key)
}

// TransferSums are the SHA-256 digests that a transfer of n bytes with this seed has: of what the server receives, and
// of what the client does. A judge elsewhere computes them by itself.
func TransferSums(n int64, seed uint64) (toServer, toClient [sha256.Size]byte) {
	for i, out := range []*[sha256.Size]byte{&toServer, &toClient} {
		sum := sha256.New()
		_, _ = io.CopyN(sum, stream(seed, byte(i)), n) // neither end fails
		sum.Sum(out[:0])
	}
	return toServer, toClient
}

func sendStream(conn net.Conn, n int64, src io.Reader) (digest [sha256.Size]byte, sent int64, err error) {
	sum := sha256.New()
	buf := make([]byte, transferChunk)
	for sent < n {
		chunk := buf[:min(n-sent, transferChunk)]
		src.Read(chunk) // never short, never fails
		sum.Write(chunk)
		k, err := conn.Write(chunk)
		sent += int64(k)
		if err != nil {
			return digest, sent, err
		}
	}
	sum.Sum(digest[:0])
	return digest, sent, nil
}

// compareStream reads n bytes and compares them with the expected stream.
func compareStream(conn net.Conn, n int64, expected io.Reader, sum hash.Hash) (received int64, err error) {
	got, want := make([]byte, transferChunk), make([]byte, transferChunk)
	for received < n {
		k, err := conn.Read(got[:min(n-received, transferChunk)])
		expected.Read(want[:k])
		sum.Write(got[:k])
		if !bytes.Equal(got[:k], want[:k]) {
			at := 0
			for got[at] == want[at] {
				at++
			}
			return received, fmt.Errorf("byte %d is %#x, want %#x", received+int64(at), got[at], want[at])
		}
		received += int64(k)
		if err == io.EOF && received < n {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && received < n {
			return received, fmt.Errorf("after %d of %d bytes: %w", received, n, err)
		}
	}
	return received, nil
}

func closeWrite(conn net.Conn) error {
	c, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return fmt.Errorf("%T cannot be half-closed", conn)
	}
	return c.CloseWrite()
}

// cutOnDone makes all I/O of conn fail when ctx ends; the result undoes that.
func cutOnDone(ctx context.Context, conn net.Conn) func() bool {
	return context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
}
