package main

import (
	"errors"
	"io/fs"
	"os"
)

// captureFile is the file of `capture -w`. It is opened before anything is asked, so that a name that cannot be written is
// refused at once; but what an earlier capture left in it goes only when this one has begun, and a file that was made for a
// capture that is refused goes away again.
type captureFile struct {
	*os.File
	made, began bool
	err         error // of begin
}

func openCaptureFile(name string) (*captureFile, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err == nil {
		return &captureFile{File: f, made: true}, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	// O_CREATE also here: a symbolic link to what is not there yet exists for O_EXCL.
	if f, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o666); err != nil {
		return nil, err
	}
	return &captureFile{File: f}, nil
}

// begin empties the file. A pipe or a device has nothing to empty.
func (f *captureFile) begin() {
	f.began = true
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		f.err = f.Truncate(0)
	}
}

// finish closes the file.
func (f *captureFile) finish() error {
	if f.made && !f.began {
		f.err = os.Remove(f.Name())
	}
	return errors.Join(f.err, f.Close())
}
